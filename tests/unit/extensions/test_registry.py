"""Extensions by name: what is refused and in which words, and what of an extension belongs in a key."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Annotated, Any, ClassVar

import msgspec
import pytest
from msgspec import Meta

from engine.errors import ComponentError
from engine.extensions import registry
from engine.extensions.extension import Extension
from presets.errors import PresetError
from presets.fields.listing import fields
from presets.spec.sampling import ExtensionSpec

MICRO = {"num_blocks": 6, "dim": 128, "model": "micro"}
BUILTIN = ("skip-layer-guidance", "teacache")


@pytest.fixture(autouse=True)
def fresh_table():
    registry.extensions.cache_clear()
    yield
    registry.extensions.cache_clear()


def spec(name: str, **options: Any) -> ExtensionSpec:
    return ExtensionSpec(name=name, options=options)


class Named:
    """One option of each sort."""

    exact: ClassVar[bool] = False
    version: ClassVar[int] = 3
    facts_in_key: ClassVar[tuple[str, ...]] = ("dim",)

    class Options(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
        strength: Annotated[float, Meta(ge=0, description="s", extra={"neutral": 0.0})] = 1.0
        mode: Annotated[str, Meta(description="m")] = "soft"
        buffers: Annotated[int, Meta(ge=0, description="b", extra={"place": True})] = 2
        start: Annotated[float, Meta(ge=0, description="t", extra={"when": True})] = 0.0

    def __init__(self, options: Options, facts) -> None:
        self.options = options

    def is_active(self, step: int, total: int) -> bool:
        return True


NOT_ONE = object


def installed(monkeypatch: pytest.MonkeyPatch, **named: str) -> None:
    found = [
        EntryPoint(name.replace("_", "-"), value, registry.ENTRY_POINT_GROUP)
        for name, value in named.items()
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "named_extension", sys.modules[__name__])
    installed(monkeypatch, named="named_extension:Named")


def refusal(error: type[Exception], call: Any) -> str:
    with pytest.raises(error) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_built_in_ones_are_there() -> None:
    assert set(BUILTIN) <= set(registry.extensions())
    for name in BUILTIN:
        found: type[Extension] = registry.find(name)
        made = registry.make(spec(name, **({"blocks": "4"} if "skip" in name else {})), MICRO)
        assert isinstance(made, found)
        for field in fields(found.Options):
            assert field.description, field.key


def test_asking_for_options_imports_no_torch() -> None:
    code = (
        "import sys; from engine.extensions import registry, extension\n"
        "from presets.spec.sampling import ExtensionSpec as S\n"
        "for name in registry.extensions(): registry.options_of(S(name=name)); registry.identity(S(name=name), {})\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "teecache",
            "extensions[1].name: unknown extension 'teecache', did you mean \"teacache\"?",
        ),
        (
            "block-swap",
            "extensions[1].name: block swap is a setting of the denoiser now; leave the extension out and set "
            "components.denoiser.resident_blocks",
        ),
        (
            "zzz",
            "extensions[1].name: unknown extension 'zzz'; known: skip-layer-guidance, teacache",
        ),
    ],
)
def test_an_unknown_name(name: str, message: str) -> None:
    specs = [spec("teacache"), spec(name)]
    assert refusal(ComponentError, lambda: registry.check(specs, MICRO)) == message


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (spec("teacache", treshold=1.0), "extensions[0].options.treshold: unknown key, did you mean threshold?"),
        (
            spec("teacache", threshold="high"),
            'extensions[0].options.threshold: expected a finite number >= 0 and <= 10, got "high"',
        ),
        (spec("teacache", start=0.5, end=0.25), "extensions[0].options.end: expected at least start, 0.5"),
        (
            spec("skip-layer-guidance", blocks="4,3"),
            'extensions[0].options.blocks: expected ascending numbers, got "4,3"',
        ),
        (
            spec("skip-layer-guidance", blocks="nine"),
            'extensions[0].options.blocks: expected numbers of blocks, ascending, as in "9,10", got "nine"',
        ),
        (
            spec("skip-layer-guidance"),
            "extensions[0].options.blocks: there is no block 10; this model has blocks 0 to 5",
        ),
    ],
)  # fmt: skip
def test_options_that_do_not_do(bad: ExtensionSpec, message: str) -> None:
    assert refusal(PresetError, lambda: registry.check([bad], MICRO)) == message


def test_a_denoiser_that_does_not_do() -> None:
    unknown = {"num_blocks": 30, "model": ""}
    told = refusal(ComponentError, lambda: registry.check([spec("teacache")], unknown))
    assert told.startswith(
        "extensions[0]: teacache has no coefficients for a model without a published name"
    )
    told = refusal(ComponentError, lambda: registry.check([spec("skip-layer-guidance")], {}))
    assert told.startswith("extensions[0]: the denoiser does not tell its number of blocks")


def test_identity_is_what_numbers_depend_on(named: None) -> None:
    plain = {"name": "named", "version": 3, "facts": {"dim": 128}}
    assert registry.identity(spec("named"), MICRO) == plain | {
        "options": {"strength": 1.0, "mode": "soft"}
    }
    placed = spec("named", buffers=9, start=0.5, strength=0, mode="hard")
    assert registry.identity(placed, MICRO) == plain | {"options": {"mode": "hard"}}
    assert registry.identity(spec("teacache", threshold=0.1, start=0.5), MICRO) == {
        "name": "teacache",
        "version": 1,
        "options": {"threshold": 0.1},
        "facts": {"model": "micro"},
    }


def test_two_packages_with_one_name(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, teacache="mine:TeaCache")
    told = refusal(ComponentError, registry.extensions)
    assert told.startswith("mine:TeaCache adds the extension 'teacache', which engine.extensions.")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "no_such_module:Thing",
            "the extension 'other' cannot be imported: No module named 'no_such_module'",
        ),
        ("named_extension:NoSuchClass", "the extension 'other' cannot be imported: "),
        ("named_extension:NOT_ONE", "has no exact, version, Options, is_active"),
    ],
)
def test_a_package_that_is_none(
    named: None, monkeypatch: pytest.MonkeyPatch, value: str, message: str
) -> None:
    installed(monkeypatch, other=value)
    assert message in refusal(ComponentError, lambda: registry.find("other"))
