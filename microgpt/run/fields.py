"""A dataclass, with the `__init__` that its fields give it written out."""

from __future__ import annotations

import ast
import copy

from microgpt.run.names import Names, RefusalError


def written_out(cls: ast.ClassDef, names: Names) -> ast.ClassDef:
    """Return a dataclass as a plain class; a class without decorators as it is.

    Raises:  RefusalError if it is decorated otherwise, or grad is not its last argument
    """
    if not cls.decorator_list:
        return cls
    _check(cls, names)
    parameters, body = ["self"], []
    for item in cls.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            name = item.target.id
            default, given = _default(item.value, names)
            if given:
                parameters.append(f"{name}={default}" if default else name)
            body.append(f"    self.{name} = {name if given and name != 'grad' else default}")
    if parameters[-1].startswith("grad="):  # as a number that nobody gives
        del parameters[-1]
    source = "\n".join([f"def __init__({', '.join(parameters)}):", *body])
    plain = copy.copy(cls)
    try:
        init = ast.parse(source).body
    except SyntaxError:
        raise RefusalError(cls.lineno, "its fields cannot be read") from None
    plain.decorator_list = []
    plain.body = [*(ast.copy_location(s, cls) for s in init), *cls.body]
    for node in ast.walk(plain.body[0]):
        ast.copy_location(node, cls)
    return plain


def _check(cls: ast.ClassDef, names: Names) -> None:
    """Refuse a decorator that does more than to write `__init__`."""
    decorator = cls.decorator_list[0]
    call = decorator if isinstance(decorator, ast.Call) else ast.Call(decorator, [], [])
    root, _, rest = ast.unparse(call.func).partition(".")
    meaning = ".".join([names.of(root), *([rest] if rest else [])])
    has_init = any(getattr(item, "name", "") == "__init__" for item in cls.body)
    if len(cls.decorator_list) > 1 or meaning != "dataclasses.dataclass" or has_init:
        raise RefusalError(decorator.lineno, "it has a decorator")
    settings = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if call.args or settings.pop("eq", "True") != "False" or set(settings) - {"repr", "slots"}:
        reason = "as a dataclass it compares or behaves in ways of its own"
        raise RefusalError(decorator.lineno, reason)


def _default(value: ast.expr | None, names: Names) -> tuple[str, bool]:
    """Return a field's default as text, and whether the constructor takes the field."""
    if not isinstance(value, ast.Call):
        return (ast.unparse(value) if value is not None else ""), True
    options = {keyword.arg: keyword.value for keyword in value.keywords}
    given = ast.unparse(options.get("init", value)) != "False"
    default, factory = options.get("default"), options.get("default_factory")
    if isinstance(factory, ast.Lambda):
        return ast.unparse(factory.body), given
    if factory is not None:
        return ("()" if names.of(ast.unparse(factory)) in ("tuple", "list") else ""), given
    if not given and not isinstance(default, ast.Constant):
        return "", given  # an attribute of the class, which as a function would be a method
    return (ast.unparse(default) if default is not None else ""), given
