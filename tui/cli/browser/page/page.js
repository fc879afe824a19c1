// What textual.js is told of this page: the addresses of its WebSocket and of its files are below the token, in whatever
// way the browser came here.
"use strict";

const here = new URL(".", window.location.href);
const open = window.open.bind(window);

window.open = (address, ...rest) => {
  const download = `${window.location.origin}/download/`;
  return open(
    address.startsWith(download) ? new URL(address.slice(download.length), new URL("download/", here)) : address,
    ...rest,
  );
};

const begin = window.onload;

window.onload = async (event) => {
  const terminal = document.querySelector("#terminal");
  const size = Number(new URLSearchParams(window.location.search).get("fontsize"));
  terminal.dataset.sessionWebsocketUrl = new URL("ws", here).href.replace(/^http/, "ws");
  terminal.dataset.fontSize = size >= 4 && size <= 100 ? size : 16;
  document.querySelector("button").onclick = () => window.location.reload();
  // the terminal measures its letters once
  await Promise.allSettled([document.fonts.load("16px 'Roboto Mono'")]);
  begin(event);
  // keys go to the app at once, and not before it hears them
  new MutationObserver((_, watcher) => {
    if (document.body.classList.contains("-first-byte")) {
      watcher.disconnect();
      document.querySelector(".xterm-helper-textarea").focus();
    }
  }).observe(document.body, { attributeFilter: ["class"] });
};
