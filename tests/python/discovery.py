"""Makes the simulator's tables of Google's methods from the discovery documents
inside google-api-python-client, and checks that those in the tree are the same.

    discovery.py DIRECTORY           says where the tables differ; exit code 1 when they do
    discovery.py DIRECTORY --write   writes them

A table holds what can be checked by a program: paths, parameters, types, and no prose.
"""

import json
import pathlib
import re
import sys

import googleapiclient.discovery_cache

GMAIL = """getProfile drafts.create drafts.delete drafts.get drafts.list drafts.send drafts.update history.list
labels.create labels.delete labels.get labels.list labels.patch labels.update messages.attachments.get
messages.batchDelete messages.batchModify messages.delete messages.get messages.insert messages.list messages.modify
messages.send messages.trash messages.untrash threads.delete threads.get threads.list threads.modify threads.trash
threads.untrash"""
CALENDAR = """calendarList.get calendarList.list calendars.get events.delete events.get events.insert events.instances events.list
events.move events.patch events.quickAdd events.update freebusy.query"""
DRIVE = """about.get changes.getStartPageToken changes.list files.copy files.create files.delete files.emptyTrash
files.export files.generateIds files.get files.list files.update permissions.create permissions.delete
permissions.get permissions.list permissions.update"""
CLAIMED = {
    "gmail.v1": ["gmail.users." + name for name in GMAIL.split()],
    "calendar.v3": ["calendar." + name for name in CALENDAR.split()],
    "drive.v3": ["drive." + name for name in DRIVE.split()],
    "oauth2.v2": ["oauth2.tokeninfo", "oauth2.userinfo.get", "oauth2.userinfo.v2.me.get"],
}


def document(name):
    place = pathlib.Path(googleapiclient.discovery_cache.__file__).parent / "documents" / f"{name}.json"
    return json.loads(place.read_text())


def methods_of(resource):
    for method in resource.get("methods", {}).values():
        yield method
    for below in resource.get("resources", {}).values():
        yield from methods_of(below)


def parameter(spec):
    """`path string`, `query repeated string a|b`, `query integer 1..1000`."""
    words = [spec["location"]]
    words += [word for word in ("required", "repeated") if spec.get(word)]
    words.append(spec["type"] + (":" + spec["format"] if "format" in spec else ""))
    if "enum" in spec:
        words.append("|".join(spec["enum"]))
    if "minimum" in spec or "maximum" in spec:
        words.append(spec.get("minimum", "") + ".." + spec.get("maximum", ""))
    return " ".join(words)


def shape(spec, refs):
    """A type: `string:int64`, `#Message`, `[T]` as a list of one, `{"*": T}` as a map, else the fields."""
    if "$ref" in spec:
        refs.add(spec["$ref"])
        return "#" + spec["$ref"]
    kind = spec["type"]
    if kind == "array":
        return [shape(spec["items"], refs)]
    if kind == "object":
        if "properties" in spec:
            return {name: shape(below, refs) for name, below in sorted(spec["properties"].items())}
        return {"*": shape(spec["additionalProperties"], refs)}
    if "enum" in spec:
        return kind + "=" + "|".join(spec["enum"])
    return kind + (":" + spec["format"] if "format" in spec else "")


def table(name):
    source = document(name)
    found = {method["id"]: method for method in methods_of(source)}
    methods, refs = {}, set()
    for claimed in sorted(CLAIMED[name]):
        method = found[claimed]
        path = re.sub(r"\{\+?(\w+)\}", r"{\1}", "/" + source["servicePath"] + method["path"])
        parameters = method.get("parameters", {})
        entry = {"http": method["httpMethod"], "path": path}
        entry["parameters"] = {key: parameter(spec) for key, spec in sorted(parameters.items())}
        for part in ("request", "response"):
            if part in method:
                entry[part] = method[part]["$ref"]
                refs.add(entry[part])
        if method.get("supportsMediaUpload"):
            upload = method["mediaUpload"]
            entry["upload"] = {"path": upload["protocols"]["simple"]["path"], "accept": upload["accept"]}
            if "maxSize" in upload:
                entry["upload"]["max"] = upload["maxSize"]
        if "scopes" in method:
            entry["scopes"] = [scope.removeprefix("https://www.googleapis.com/auth/") for scope in method["scopes"]]
        methods[claimed] = entry
    schemas = {}
    while missing := sorted(refs - schemas.keys()):
        for ref in missing:
            schemas[ref] = shape(source["schemas"][ref], refs)
    shared = {key: parameter(spec) for key, spec in sorted(source["parameters"].items())}
    return {"batch": "/" + source["batchPath"], "parameters": shared, "methods": methods, "schemas": schemas}


def written(value):
    """JSON with a line for each method and each schema, so that a change can be read."""
    lines = ["{"]
    for key in ("batch", "parameters", "methods", "schemas"):
        comma = "" if key == "schemas" else ","
        if key in ("methods", "schemas"):
            entries = [f"  {json.dumps(k)}: {json.dumps(v)}" for k, v in sorted(value[key].items())]
            lines.append(f'"{key}": {{\n' + ",\n".join(entries) + "\n}" + comma)
        else:
            lines.append(f'"{key}": {json.dumps(value[key])}{comma}')
    return "\n".join(lines) + "\n}\n"


def main():
    directory = pathlib.Path(sys.argv[1])
    different = []
    for name in CLAIMED:
        place, text = directory / f"{name}.json", written(table(name))
        if "--write" in sys.argv:
            place.write_text(text)
        elif not place.exists() or place.read_text() != text:
            different.append(name)
    if different:
        sys.exit(f"not as the discovery documents say: {', '.join(different)}; run discovery.py DIRECTORY --write")


if __name__ == "__main__":
    main()
