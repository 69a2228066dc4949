"""The order of the package's rooms: which may import which."""

import ast

import pytest
from helpers import ROOT

PACKAGE = ROOT / "yolov5_featviz"
# A room imports from those above it, and from itself. Modules directly in the package are below all rooms, but for
# those in TOP, which put rooms together.
ROOMS = ("", "arrays", "models", "draw", "features", "attribution", "figures", "runs", "compare", "yolov5", "cli")
SIBLINGS = {("runs", "figures")}  # neither imports the other
TOP = {"__init__", "__main__", "mmdet", "report", "yolov5.handover"}  # the last three are named in users' files


def modules():
    """Names of modules, dotted, below the package -> what each imports of the package, with the line."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        imports = []
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: a relative import"
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            else:
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                if name.split(".")[0] == "yolov5_featviz":
                    words = name.split(".")[1:]
                    while words and not is_module(words):
                        words.pop()
                    imports.append((".".join(words), node.lineno))
        found[".".join(parts)] = imports
    return found


def is_module(words):
    path = PACKAGE.joinpath(*words)
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def room(module):
    first = module.split(".")[0]
    return first if (PACKAGE / first).is_dir() else ""


MODULES = modules()


def test_every_module_is_in_a_room():
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*/*.py")}
    assert folders == set(ROOMS) - {""}
    assert len(MODULES) > 80


@pytest.mark.parametrize("module", sorted(set(MODULES) - TOP))
def test_no_import_goes_upwards(module):
    """Neither at the head of a module nor within a function."""
    here = ROOMS.index(room(module))
    for name, line in MODULES[module]:
        there = room(name)
        assert name not in TOP, f"{module}, line {line}: imports {name}, which is for users' files"
        assert ROOMS.index(there) <= here and (room(module), there) not in SIBLINGS, (
            f"{module}, line {line}: {room(module) or 'the package itself'} is below {there}, which it imports"
        )


def test_there_is_no_circle():
    """Of modules, at the head or within functions."""
    graph = {module: {name for name, _ in imports if name and name != module} for module, imports in MODULES.items()}
    for module in list(graph):  # a package is its __init__
        graph[module] = {name if name in graph else f"{name}.__init__" for name in graph[module]}
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module in done:
            return
        path.append(module)
        for name in sorted(graph.get(module, ())):
            visit(name)
        path.pop()
        done.add(module)

    for module in sorted(graph):
        visit(module)


def test_only_yolov5_knows_yolov5():
    """No other room imports it, or names what only it has."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).parts
        if parts[0] in ("yolov5", "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.attr if isinstance(node, ast.Attribute) else getattr(node, "id", "")
            assert name not in ("forward_once", "_forward_once", "DetectMultiBackend", "AutoShape"), path
