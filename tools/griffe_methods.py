"""For the reference: a class that says ``acquire = acquire`` has the function as a method.

Law: reads what griffe has read of the sources; nothing is imported or run.
"""

from __future__ import annotations

from typing import Any

import griffe


class Methods(griffe.Extension):
    """Shows functions that a class body takes from its module as methods of the class."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Once all modules have been read."""
        for module in pkg.modules.values():
            for cls in module.classes.values():
                if not cls.is_alias:
                    _adopt(cls, module)


def _adopt(cls: Any, module: Any) -> None:
    for name, member in list(cls.members.items()):
        taken = not member.is_alias and member.is_attribute and str(member.value) == name
        if taken and name in module.members:
            function = module.members[name].final_target
            method = griffe.Function(
                name,
                lineno=member.lineno,
                endlineno=member.endlineno,
                parameters=griffe.Parameters(
                    griffe.Parameter("self", kind=function.parameters[0].kind),
                    *list(function.parameters)[1:],
                ),
                returns=function.returns,
                docstring=function.docstring,
            )
            method.labels |= function.labels
            cls.set_member(name, method)
