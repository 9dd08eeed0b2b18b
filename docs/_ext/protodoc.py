# SPDX-License-Identifier: Apache-2.0
"""The directive `protodoc`: the services, messages and enums of proto files, from their comments.

    ```{protodoc} attnd/v1/attention.proto
    ```

Reads a FileDescriptorSet with source info, which protoc of grpcio-tools makes, so that the page
needs no program beside the Python packages of the docs. Each name gets a section and a label,
`proto-attendrequest` for {ref}; a field's type links to where it is described.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from google.protobuf import descriptor_pb2
from grpc_tools import protoc
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

import comments

PROTO_ROOT = Path(__file__).resolve().parent.parent.parent / "proto"
Field = descriptor_pb2.FieldDescriptorProto
# Numbers of the fields of descriptor.proto that a comment's path consists of.
_MESSAGE, _ENUM, _SERVICE = 4, 5, 6
_FIELD, _NESTED_MESSAGE, _NESTED_ENUM, _VALUE, _METHOD = 2, 3, 4, 2, 2


@lru_cache(maxsize=1)
def descriptors() -> dict[str, Any]:
    """The files of proto/ by name, with their comments."""
    names = sorted(str(path.relative_to(PROTO_ROOT)) for path in PROTO_ROOT.rglob("*.proto"))
    well_known = Path(protoc.__file__).parent / "_proto"
    with tempfile.NamedTemporaryFile(suffix=".pb") as file:
        status = protoc.main(
            [
                "protoc",
                f"--proto_path={PROTO_ROOT}",
                f"--proto_path={well_known}",
                "--include_source_info",
                f"--descriptor_set_out={file.name}",
                *names,
            ]
        )
        if status != 0:
            raise ExtensionError(f"protodoc: protoc failed with exit code {status}")
        files = descriptor_pb2.FileDescriptorSet.FromString(Path(file.name).read_bytes())
    return {file.name: file for file in files.file}


def label(name: str) -> str:
    """The id of a message, enum or service: "AttendRequest" has "proto-attendrequest"."""
    return "proto-" + name.lower().replace(".", "-")


class ProtoFile:
    """One file's descriptors, and the comment of each by its path."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.package = f".{file.package}."
        self.comments: dict[tuple[int, ...], str] = {}
        for location in file.source_code_info.location:
            text = location.leading_comments + location.trailing_comments
            if text.strip():
                self.comments[tuple(location.path)] = text

    def text(self, *path: int) -> str:
        """The comment of what `path` leads to, "" for none."""
        return self.comments.get(path, "")

    def messages(self) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
        """Each message with its name and path; nested ones after their parent, `Parent.Name`."""
        for index, message in enumerate(self.file.message_type):
            yield from self._nested(message.name, message, (_MESSAGE, index))

    def _nested(
        self, name: str, message: Any, path: tuple[int, ...]
    ) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
        yield name, message, path
        for index, inner in enumerate(message.nested_type):
            if not inner.options.map_entry:
                inner_path = (*path, _NESTED_MESSAGE, index)
                yield from self._nested(f"{name}.{inner.name}", inner, inner_path)

    def enums(self) -> Iterator[tuple[str, Any, tuple[int, ...]]]:
        """Each enum with its name and path, those inside messages too."""
        for index, enum in enumerate(self.file.enum_type):
            yield enum.name, enum, (_ENUM, index)
        for name, message, path in self.messages():
            for index, enum in enumerate(message.enum_type):
                yield f"{name}.{enum.name}", enum, (*path, _NESTED_ENUM, index)


def table(head: list[str], rows: list[list[list[nodes.Node]]], widths: list[int]) -> nodes.table:
    """A table of cells that are lists of nodes."""
    result = nodes.table(classes=["reference-table"])
    group = nodes.tgroup(cols=len(head))
    result += group
    group.extend(nodes.colspec(colwidth=width) for width in widths)
    header, body = nodes.thead(), nodes.tbody()
    group += [header, body]
    header += _row([[nodes.paragraph("", title)] for title in head])
    body.extend(_row(row) for row in rows)
    return result


def _row(cells: list[list[nodes.Node]]) -> nodes.row:
    row = nodes.row()
    for cell in cells:
        row += nodes.entry("", *cell)
    return row


class ProtoDoc(SphinxDirective):
    """See the module."""

    required_arguments = 1
    has_content = False
    _SCALARS: ClassVar[dict[int, str]] = {
        number: name.removeprefix("TYPE_").lower() for name, number in Field.Type.items()
    }

    def run(self) -> list[nodes.Node]:
        """The sections of one file."""
        name = self.arguments[0]
        if name not in descriptors():
            raise self.error(f"protodoc: no {name} under {PROTO_ROOT}")
        self.env.note_dependency(str(PROTO_ROOT / name))
        self.env.note_dependency(__file__)
        proto = ProtoFile(descriptors()[name])
        sections: list[nodes.Node] = []
        for index, service in enumerate(proto.file.service):
            sections.append(self._service(proto, service, (_SERVICE, index)))
        for title, message, path in proto.messages():
            sections.append(self._message(proto, title, message, path))
        for title, enum, path in proto.enums():
            sections.append(self._enum(proto, title, enum, path))
        return sections

    def _section(self, title: str, text: str) -> nodes.section:
        section = nodes.section(ids=[label(title)], names=[label(title)])
        section += nodes.title("", title)
        section += comments.blocks(text)
        self.state.document.note_explicit_target(section)
        return section

    def _service(self, proto: ProtoFile, service: Any, path: tuple[int, ...]) -> nodes.section:
        section = self._section(service.name, proto.text(*path))
        methods = nodes.definition_list(classes=["proto-methods"])
        for index, method in enumerate(service.method):
            term = nodes.term()
            term += nodes.strong("", method.name)
            for kind, streaming, arrow in (
                (method.input_type, method.client_streaming, " ("),
                (method.output_type, method.server_streaming, ") → ("),
            ):
                term += nodes.Text(arrow + ("stream " if streaming else ""))
                term += self._type(proto, kind)
            term += nodes.Text(")")
            body = comments.blocks(proto.text(*path, _METHOD, index))
            methods += nodes.definition_list_item("", term, nodes.definition("", *body))
        section += methods
        return section

    def _message(
        self, proto: ProtoFile, title: str, message: Any, path: tuple[int, ...]
    ) -> nodes.section:
        section = self._section(title, proto.text(*path))
        rows = []
        for index, field in enumerate(message.field):
            kind = nodes.paragraph()
            if field.label == Field.LABEL_REPEATED:
                kind += nodes.Text("repeated ")
            elif field.proto3_optional:
                kind += nodes.Text("optional ")
            kind += self._type(proto, field.type_name or self._SCALARS[field.type])
            name = nodes.paragraph("", "", nodes.literal("", field.name))
            text = comments.blocks(proto.text(*path, _FIELD, index))
            rows.append([[name], [kind], [nodes.paragraph("", str(field.number))], text])
        if rows:
            section += table(["field", "type", "no.", ""], rows, [24, 22, 6, 48])
        elif not proto.text(*path):
            section += nodes.paragraph("", "No fields.")
        return section

    def _enum(self, proto: ProtoFile, title: str, enum: Any, path: tuple[int, ...]) -> nodes.Node:
        section = self._section(title, proto.text(*path))
        rows = [
            [
                [nodes.paragraph("", "", nodes.literal("", value.name))],
                [nodes.paragraph("", str(value.number))],
                comments.blocks(proto.text(*path, _VALUE, index)),
            ]
            for index, value in enumerate(enum.value)
        ]
        section += table(["value", "no.", ""], rows, [34, 6, 60])
        return section

    def _type(self, proto: ProtoFile, name: str) -> nodes.Node:
        """A literal; of our own package, a link to its section."""
        short = name.removeprefix(proto.package).removeprefix(".")
        if not name.startswith(proto.package):
            return nodes.literal("", short)
        return nodes.reference("", "", nodes.literal("", short), refid=label(short), internal=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Registers the directive."""
    app.add_directive("protodoc", ProtoDoc)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
