"""Mutants of the Solidity sources, all of them in one compilation.

The compiler's syntax tree says where expressions and statements lie. Each mutant guards one of them with a
number: `a < b` becomes `(MUTANT == 7 ? a <= b : a < b)`, a deleted statement `{ if (MUTANT != 8) { .. } }`,
and in assembly, which has no conditional expression, `xor(x, mul(eq(MUTANT, 9), xor(x, y)))`. MUTANT is a
constant of 32 conspicuous bytes. Compiled once without the optimiser, every one of its places in the code is
then overwritten with the number of the mutant that is to live: compilation takes longer than all tests.
"""

from __future__ import annotations

import json
import random
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Node = dict[str, Any]

MAGIC = "5eed0f0e5eed1f1e5eed2f2e5eed3f3e5eed4f4e5eed5f5e5eed6f6e5eed7f7e"
"""The bytes that stand for the number of the living mutant until they are overwritten."""

MARKET_FILES = ("Market.sol", "MarketPhases.sol", "MarketSettlement.sol", "MarketSetup.sol", "MarketState.sol")
LIBRARY_FILES = ("Krum.sol", "CommitmentChain.sol", "RingSums.sol")  # Libraries.t.sol tests them, through Face.sol
FILES = (*MARKET_FILES, "TaskBounds.sol", *LIBRARY_FILES)

_RELATIONAL = {
    "<": ("<=", ">="),
    "<=": ("<", ">"),
    ">": (">=", "<="),
    ">=": (">", "<"),
    "==": ("!=",),
    "!=": ("==",),
    "&&": ("||",),
    "||": ("&&",),
}
_ARITHMETIC = {
    "+": ("-",),
    "-": ("+",),
    "*": ("+",),
    "/": ("*",),
    "%": ("*",),
    "<<": (">>",),
    ">>": ("<<",),
    "&": ("|",),
    "|": ("&",),
    "^": ("|",),
}
_ASSIGNMENTS = {"+=": "-=", "-=": "+=", "|=": "&=", "&=": "|=", "^=": "|=", ">>=": "<<=", "<<=": ">>="}
_YUL = {
    "add": "sub({0}, {1})",
    "sub": "add({0}, {1})",
    "mul": "add({0}, {1})",
    "div": "mul({0}, {1})",
    "shl": "shr({0}, {1})",
    "shr": "shl({0}, {1})",
    "and": "or({0}, {1})",
    "or": "and({0}, {1})",
    "lt": "gt({0}, {1})",
    "gt": "lt({0}, {1})",
    "eq": "iszero(eq({0}, {1}))",
    "iszero": "iszero(iszero({0}))",
    "not": "{0}",
}


@dataclass(frozen=True)
class Mutant:
    """One change: `before`, at byte `start` of `file`, becomes `after`, by `rule`."""

    file: str
    start: int
    end: int
    line: int
    function: str
    rule: str
    form: str  # expression, statement, yul or yul statement
    before: str
    after: str

    def __str__(self) -> str:
        short = [" ".join(text.split()) for text in (self.before, self.after)]
        short = [text if len(text) <= 90 else text[:87] + "..." for text in short]
        return f"{self.file}:{self.line} {self.function}: {self.rule}: `{short[0]}` -> `{short[1] or 'nothing'}`"


def standard_json(contracts: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The compiler's answer. Raises CalledProcessError when it cannot be run."""
    run = subprocess.run(
        ["node", str(contracts / "solc.cjs"), "--standard-json"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(run.stdout)
    return answer


def read_sources(contracts: Path, harness: Path) -> dict[str, str]:
    """Our sources, the libraries' harness and what they import, by the names that imports give them."""
    found = {f"src/{path.name}": path.read_text() for path in sorted((contracts / "src").glob("*.sol"))}
    found["harness/Face.sol"] = harness.read_text().replace('"@market/', '"src/')
    todo = list(found)
    while todo:
        for target in re.findall(r'"(@openzeppelin/[^"]+)"', found[todo.pop()]):
            if target not in found:
                found[target] = (contracts / "node_modules" / target).read_text()
                todo.append(target)
        # the library's own imports of its own files
        for name in list(found):
            for target in re.findall(r'from "(\.{1,2}/[^"]+)"', found[name]) if name.startswith("@") else ():
                full = str(Path("/", name).parent.joinpath(target).resolve())[1:]
                if full not in found:
                    found[full] = (contracts / "node_modules" / full).read_text()
                    todo.append(full)
    return found


def all_mutants(contracts: Path, sources: dict[str, str]) -> list[Mutant]:
    """Every mutant of the files, in the order of the sources."""
    answer = standard_json(
        contracts,
        {
            "language": "Solidity",
            "sources": {name: {"content": text} for name, text in sources.items()},
            "settings": {"evmVersion": "osaka", "outputSelection": {"*": {"": ["ast"]}}},
        },
    )
    mutants: list[Mutant] = []
    for file in FILES:
        walk = _Walk(file, sources[f"src/{file}"].encode())
        walk.in_assembly = {
            reference["declaration"]
            for node in _nodes(answer["sources"][f"src/{file}"]["ast"])
            if node["nodeType"] == "InlineAssembly"
            for reference in node["externalReferences"]
        }
        walk.visit(answer["sources"][f"src/{file}"]["ast"], None)
        mutants += sorted(set(walk.mutants), key=lambda m: (m.start, m.end, m.rule, m.after))
    return mutants


def sample(mutants: list[Mutant], count: int, seed: int) -> list[Mutant]:
    """So many of them, a share of each file, in the order of the sources; the same for the same seed."""
    chance = random.Random(seed)
    shares: dict[tuple[str, ...], float] = {
        MARKET_FILES: 0.66,
        ("TaskBounds.sol",): 0.12,
        ("Krum.sol",): 0.07,
        ("CommitmentChain.sol",): 0.07,
    }
    chosen: set[Mutant] = set()
    for files, share in shares.items():
        own = [mutant for mutant in mutants if mutant.file in files]
        chosen |= set(chance.sample(own, min(len(own), int(count * share))))
    rest = [mutant for mutant in mutants if mutant.file == FILES[-1]]
    chosen |= set(chance.sample(rest, min(len(rest), max(0, count - len(chosen)))))
    return [mutant for mutant in mutants if mutant in chosen]


def _nodes(node: Any) -> Iterator[Node]:
    if isinstance(node, dict):
        if "nodeType" in node:
            yield node
        for value in node.values():
            yield from _nodes(value)
    elif isinstance(node, list):
        for value in node:
            yield from _nodes(value)


def _is_literal_number(node: Node) -> bool:
    return str(node.get("typeDescriptions", {}).get("typeString", "")).startswith("int_const ")


def _is_number(kind: str) -> bool:
    return re.fullmatch(r"u?int\d+|bytes32", kind) is not None


@dataclass
class _Walk:
    """Collects the mutants of one file."""

    file: str
    source: bytes
    mutants: list[Mutant] = field(default_factory=list)
    in_assembly: set[int] = field(default_factory=set)
    function: str = ""

    def text(self, node: Node) -> str:
        start, length = (int(part) for part in str(node["src"]).split(":")[:2])
        return self.source[start : start + length].decode()

    def add(self, node: Node, rule: str, after: str, form: str = "expression") -> None:
        start, length = (int(part) for part in node["src"].split(":")[:2])
        if form.endswith("statement") and self.source[start + length : start + length + 1] == b";":
            length += 1
        before = self.source[start : start + length].decode()
        line = self.source[:start].count(b"\n") + 1
        self.mutants.append(Mutant(self.file, start, start + length, line, self.function, rule, form, before, after))

    def visit(self, node: Any, parent: Node | None) -> None:
        if isinstance(node, list):
            for part in node:
                self.visit(part, parent)
            return
        if not isinstance(node, dict) or "nodeType" not in node:
            return
        kind = node["nodeType"]
        # what is said, not what is done: logs and errors have tests of their own
        skipped = {"EmitStatement", "RevertStatement", "StructDefinition", "EnumDefinition", "ImportDirective"}
        if kind in skipped or kind in {"ModifierInvocation", "InheritanceSpecifier", "StructuredDocumentation"}:
            return
        if kind == "VariableDeclaration" and (node["id"] in self.in_assembly or not node.get("constant")):
            return
        if kind == "FunctionDefinition":
            self.function = node["name"] or node["kind"]
        if kind == "VariableDeclaration":
            self.function = node["name"]
        handler = getattr(self, f"_{kind}", None)
        if handler is not None and handler(node, parent):
            return
        if _is_literal_number(node):
            self._number(node, parent)
            return
        for name, value in node.items():
            if kind == "ForStatement" and name == "loopExpression":
                continue  # mutants that never end prove nothing
            if kind == "YulForLoop" and name == "post":
                continue
            if name not in ("typeDescriptions", "typeName", "documentation", "externalReferences", "names"):
                self.visit(value, node)

    # ---- Solidity

    def _BinaryOperation(self, node: Node, parent: Node | None) -> None:
        if _is_literal_number(node):
            return
        left, right = self.text(node["leftExpression"]), self.text(node["rightExpression"])
        operator = node["operator"]
        if operator in _RELATIONAL:
            for other in _RELATIONAL[operator]:
                self.add(node, "boolean" if operator in ("&&", "||") else "relational", f"({left}) {other} ({right})")
        elif _is_number(node["typeDescriptions"]["typeString"]):
            for other in _ARITHMETIC.get(operator, ()):
                self.add(node, "arithmetic", f"({left}) {other} ({right})")

    def _UnaryOperation(self, node: Node, parent: Node | None) -> bool:
        inner = self.text(node["subExpression"])
        if node["operator"] in ("!", "~"):
            self.add(node, "boolean" if node["operator"] == "!" else "arithmetic", inner)
        if node["operator"] == "++":
            self.add(node, "arithmetic", f"--{inner}" if node["prefix"] else f"{inner}--")
        return bool(node["operator"] == "++")

    def _Assignment(self, node: Node, parent: Node | None) -> None:
        other = _ASSIGNMENTS.get(node["operator"])
        if other:
            self.add(
                node, "arithmetic", f"{self.text(node['leftHandSide'])} {other} ({self.text(node['rightHandSide'])})"
            )

    def _Conditional(self, node: Node, parent: Node | None) -> None:
        condition, yes, no = (self.text(node[key]) for key in ("condition", "trueExpression", "falseExpression"))
        self.add(node, "boolean", f"({condition}) ? ({no}) : ({yes})")

    def _Literal(self, node: Node, parent: Node | None) -> None:
        if node["kind"] == "bool":
            self.add(node, "boolean", "false" if node["value"] == "true" else "true")

    def _number(self, node: Node, parent: Node | None) -> None:
        if parent is None or parent["nodeType"] in ("TupleExpression", "ArrayTypeName"):
            return
        text = self.text(node)
        cast = ""
        if parent["nodeType"] == "BinaryOperation":
            common = parent["commonType"]["typeString"]
            shift_by = parent["operator"] in ("<<", ">>", "**") and parent["rightExpression"] is node
            if not shift_by and not re.fullmatch(r"u?int\d*", common):
                return
            cast = "" if shift_by else common
        elif parent["nodeType"] == "Assignment":
            cast = parent["leftHandSide"]["typeDescriptions"]["typeString"]
        elif parent["nodeType"] == "VariableDeclaration":
            cast = parent["typeDescriptions"]["typeString"]
        elif parent["nodeType"] == "VariableDeclarationStatement":
            cast = parent["declarations"][0]["typeDescriptions"]["typeString"]
        if cast and not re.fullmatch(r"u?int\d*", cast):
            return
        for change in ("+ 1", "- 1"):
            if change == "- 1" and text == "0":
                continue
            self.add(node, f"constant {cast}".strip(), f"({text}) {change}")

    def _FunctionCall(self, node: Node, parent: Node | None) -> bool:
        called = self.text(node["expression"])
        if node["kind"] != "functionCall" or called.startswith(("abi.encode", "keccak256", "abi.decode")):
            return bool(called.startswith(("abi.", "keccak256")))
        arguments = node["arguments"]
        for i in range(len(arguments) - 1):
            one, two = arguments[i : i + 2]
            texts = [self.text(argument) for argument in arguments]
            types = [argument["typeDescriptions"]["typeString"].removeprefix("int_const ") for argument in (one, two)]
            literal = _is_literal_number(one), _is_literal_number(two)
            if texts[i] == texts[i + 1] or not (types[0] == types[1] or any(literal)):
                continue
            if any(literal) and not all(kind.isdigit() or _is_number(kind) for kind in types):
                continue
            texts[i], texts[i + 1] = texts[i + 1], texts[i]
            swapped = f"{called}({', '.join(texts)})"
            if node["typeDescriptions"]["typeString"] != "tuple()":
                self.add(node, "swapped arguments", swapped)
            elif parent is not None and parent["nodeType"] == "ExpressionStatement":
                self.add(node, "swapped arguments", f"{swapped};", "statement")
        return False

    def _ExpressionStatement(self, node: Node, parent: Node | None) -> None:
        if parent is not None and parent["nodeType"] == "ForStatement" and parent.get("body") is not node:
            return
        if "storage pointer" in str(node["expression"]["typeDescriptions"]["typeString"]):
            return  # a pointer must be given before it is used: that never compiles
        self.add(node, "deleted", "", "statement")

    def _IfStatement(self, node: Node, parent: Node | None) -> None:
        body = node["trueBody"]
        if body["nodeType"] == "RevertStatement" and not node.get("falseBody"):
            self.add(node, "deleted require", "", "statement")
        condition = node["condition"]
        if condition["nodeType"] != "BinaryOperation" or condition["operator"] in ("&&", "||"):
            self.add(condition, "negated", f"!({self.text(condition)})")

    def _Continue(self, node: Node, parent: Node | None) -> None:
        self.add(node, "deleted", "", "statement")

    def _Return(self, node: Node, parent: Node | None) -> None:
        if node.get("expression") is None:
            self.add(node, "deleted", "", "statement")

    # ---- assembly

    def _YulFunctionCall(self, node: Node, parent: Node | None) -> bool:
        name = node["functionName"]["name"]
        if name in _YUL:
            arguments = [self.text(argument) for argument in node["arguments"]]
            self.add(node, "assembly", _YUL[name].format(*arguments), "yul")
        for argument in node["arguments"]:
            self.visit(argument, node)
        return True

    def _YulLiteral(self, node: Node, parent: Node | None) -> None:
        if parent is not None and parent["nodeType"] != "YulCase" and node["kind"] == "number":
            self.add(node, "constant", f"add({node['value']}, 1)", "yul")

    def _YulExpressionStatement(self, node: Node, parent: Node | None) -> None:
        self.add(node, "deleted", "", "yul statement")

    def _YulAssignment(self, node: Node, parent: Node | None) -> None:
        self.add(node, "deleted", "", "yul statement")


# ---- the sources with all of them in it


def guarded(sources: dict[str, str], mutants: list[Mutant]) -> dict[str, str]:
    """The sources in which mutant number i (from 1) lives when MUTANT is i; with 0 they do what they did."""
    result = dict(sources)
    for file in FILES:
        name = f"src/{file}"
        spans: dict[tuple[int, int], list[tuple[int, Mutant]]] = {}
        for number, mutant in enumerate(mutants, 1):
            if mutant.file == file:
                spans.setdefault((mutant.start, mutant.end), []).append((number, mutant))
        source = sources[name].encode()
        text = _render(source, 0, len(source), sorted(spans, key=lambda s: (s[0], -s[1])), spans)
        result[name] = re.sub(
            r"^(pragma [^\n]*\n)", r'\1import {MUTANT} from "src/Mutant.sol";' + "\n", text, count=1, flags=re.MULTILINE
        )
    result["src/Mutant.sol"] = (
        f"// SPDX-License-Identifier: MIT\npragma solidity ^0.8.30;\nuint256 constant MUTANT = 0x{MAGIC};\n"
    )
    return result


def _render(
    source: bytes,
    start: int,
    end: int,
    inner: list[tuple[int, int]],
    spans: dict[tuple[int, int], list[tuple[int, Mutant]]],
) -> str:
    out, place = "", start
    while inner:
        span = inner.pop(0)
        nested = []
        while inner and inner[0][1] <= span[1]:
            nested.append(inner.pop(0))
        out += source[place : span[0]].decode()
        out += _guard(_render(source, *span, nested, spans), spans[span])
        place = span[1]
    return out + source[place:end].decode()


def _guard(text: str, variants: list[tuple[int, Mutant]]) -> str:
    plain = variants[0][1].before
    for number, mutant in variants:
        if mutant.form == "statement":
            text = f"{{ if (MUTANT != {number}) {{ {text} }} else {{ {mutant.after} }} }}"
        elif mutant.form == "yul statement":
            text = f"if sub(MUTANT, {number}) {{ {text} }}"
        elif mutant.form == "yul":
            text = f"xor({text}, mul(eq(MUTANT, {number}), xor({plain}, {mutant.after})))"
        else:
            cast = mutant.rule.removeprefix("constant ") if mutant.rule.startswith("constant ") else ""
            text = f"(MUTANT == {number} ? {cast}({mutant.after}) : {cast}({text}))"
    return text


def compile_guarded(
    contracts: Path, sources: dict[str, str], mutants: list[Mutant]
) -> tuple[dict[str, Any], list[Mutant], list[Mutant]]:
    """(Market and Face as compiled, the mutants in it, the mutants that do not compile).

    Mutants that the compiler refuses are left out, and the rest is compiled again.
    """
    living = list(mutants)
    refused: list[Mutant] = []
    for _ in range(30):
        texts = guarded(sources, living)
        answer = standard_json(
            contracts,
            {
                "language": "Solidity",
                "sources": {name: {"content": text} for name, text in texts.items()},
                "settings": {
                    "evmVersion": "osaka",
                    "viaIR": True,
                    # nothing is optimised, so no place of MUTANT is folded away
                    "optimizer": {
                        "enabled": False,
                        "details": {"yul": True, "yulDetails": {"stackAllocation": True, "optimizerSteps": ":"}},
                    },
                    "metadata": {"bytecodeHash": "none", "appendCBOR": False},
                    "outputSelection": {
                        "src/Market.sol": {"Market": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]},
                        "harness/Face.sol": {"Face": ["abi", "evm.bytecode.object", "evm.deployedBytecode.object"]},
                    },
                },
            },
        )
        errors = [error for error in answer.get("errors", []) if error["severity"] == "error"]
        if not errors:
            units = answer["contracts"]
            return (
                {"Market": units["src/Market.sol"]["Market"], "Face": units["harness/Face.sol"]["Face"]},
                living,
                refused,
            )
        bad = {number for error in errors for number in _culprits(error, texts)}
        if not bad:
            raise AssertionError(errors[0]["formattedMessage"])
        refused += [mutant for number, mutant in enumerate(living, 1) if number in bad]
        living = [mutant for number, mutant in enumerate(living, 1) if number not in bad]
    raise AssertionError("mutants that do not compile keep coming")


def _culprits(error: dict[str, Any], texts: dict[str, str]) -> set[int]:
    """The innermost mutants around an error: those whose number stands nearest before it, or in it."""
    place = error.get("sourceLocation")
    if place is None or place["file"] not in texts:
        return set()
    source = texts[place["file"]].encode()
    inside = source[place["start"] : place["end"]].decode(errors="replace")
    pattern = r"MUTANT(?: [!=]=|,) (\d+)"
    numbers = [int(number) for number in re.findall(pattern, inside)]
    if not numbers:
        before = source[max(0, place["start"] - 3000) : place["start"]].decode(errors="replace")
        numbers = [int(number) for number in re.findall(pattern, before)][-1:]
    return set(numbers)


def artifact(compiled: dict[str, Any], number: int) -> str:
    """What forge deploys: the compiled contract in which mutant `number` lives."""
    code = [
        compiled["evm"][kind]["object"].replace(MAGIC, f"{number:064x}") for kind in ("bytecode", "deployedBytecode")
    ]
    return json.dumps(
        {"abi": compiled["abi"], "bytecode": {"object": "0x" + code[0]}, "deployedBytecode": {"object": "0x" + code[1]}}
    )
