"""The Textual app. A screen is a folder; its stylesheet lies in it, and it is imported when it is first opened."""
