"""Drives the simulator's Google side with Google's own client, google-api-python-client.

    google_client.py URL

The client is built from the discovery documents in the package, so every parameter is one that they know. Every
method that the simulator claims is called with every parameter it has, and every answer is held against its schema by
code of this file. Prints what was covered as JSON.
"""

import base64
import io
import json
import sys
import urllib.parse
import urllib.request
from email.message import EmailMessage

import google.oauth2.credentials
from googleapiclient import discovery
from googleapiclient.errors import HttpError
from googleapiclient.http import HttpRequest, MediaIoBaseDownload, MediaIoBaseUpload

from discovery import CLAIMED, document, methods_of

URL = sys.argv[1].rstrip("/") + "/"
COVERED = {}


def token_of(refresh_token, **more):
    form = {"grant_type": "refresh_token", "refresh_token": refresh_token, "client_id": "c", "client_secret": "s", **more}
    return post("token", form)


def post(path, form):
    data = urllib.parse.urlencode(form).encode()
    try:
        with urllib.request.urlopen(URL + path, data) as answer:
            return answer.status, json.loads(answer.read() or b"{}")
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def control(action, body=None, method="POST"):
    data = None if body is None else (body if isinstance(body, bytes) else json.dumps(body).encode())
    request = urllib.request.Request(URL + "_sim/" + action, data, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.loads(answer.read())


# ---- answers against their schemas ----


def check(schemas, schema, value, place):
    if "$ref" in schema:
        return check(schemas, schemas[schema["$ref"]], value, place)
    kind = schema.get("type")
    if kind == "any":
        return
    if kind == "object":
        assert isinstance(value, dict), (place, value)
        for name, below in value.items():
            known = schema.get("properties", {}).get(name) or schema.get("additionalProperties")
            assert known, f"{place}.{name} is not in the schema"
            check(schemas, known, below, f"{place}.{name}")
    elif kind == "array":
        assert isinstance(value, list), (place, value)
        for item in value:
            check(schemas, schema["items"], item, place + "[]")
    else:
        wanted = {"string": str, "boolean": bool, "integer": int, "number": (int, float)}[kind]
        assert isinstance(value, wanted) and (kind == "boolean" or not isinstance(value, bool)), (place, value)
        if "enum" in schema:
            assert value in schema["enum"], (place, value)
        if schema.get("format") in ("int64", "uint64"):
            int(value)


class Checked(HttpRequest):
    """A request that notes its parameters and holds its answer against the schema."""

    def execute(self, *args, **kwargs):
        answer = super().execute(*args, **kwargs)
        api = self.methodId.split(".")[0]
        method = METHODS[self.methodId]
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(self.uri).query)
        COVERED.setdefault(self.methodId, set()).update(query)
        if "response" in method and isinstance(answer, dict):
            check(DOCUMENTS[api]["schemas"], method["response"], answer, self.methodId)
        return answer


DOCUMENTS, METHODS = {}, {}
for claimed in CLAIMED:
    DOCUMENTS[claimed.split(".")[0]] = document(claimed)
    METHODS.update({method["id"]: method for method in methods_of(document(claimed))})


def service(api, token):
    found = DOCUMENTS[api] | {"rootUrl": URL, "mtlsRootUrl": URL, "baseUrl": URL}
    credentials = google.oauth2.credentials.Credentials(token)
    return discovery.build_from_document(found, credentials=credentials, requestBuilder=Checked)


def refused(request, status, reason=None):
    try:
        request.execute()
    except HttpError as error:
        assert error.resp.status == status, (error.resp.status, error.content)
        body = json.loads(error.content)["error"]
        assert body["code"] == status and body["message"], body
        assert reason is None or body["errors"][0]["reason"] == reason, body
        return
    raise AssertionError(f"{request.uri} was not refused")


def raw(subject, to="anna.berg@example.com", attach=None):
    message = EmailMessage()
    message["To"], message["Subject"] = to, subject
    message.set_content("Good day.\n")
    if attach:
        message.add_attachment(attach, maintype="application", subtype="octet-stream", filename="notes.bin")
    return message.as_bytes()


def encoded(data):
    return base64.urlsafe_b64encode(data).decode()


# ---- the services ----


def gmail(token):
    users = service("gmail", token).users()
    messages, threads, drafts, labels = users.messages(), users.threads(), users.drafts(), users.labels()
    profile = users.getProfile(userId="me").execute()
    start = profile["historyId"]

    seen, request = [], messages.list(userId="me", maxResults=20, q="in:anywhere", includeSpamTrash=True, labelIds=["INBOX"])
    while request:
        page = request.execute()
        seen += [message["id"] for message in page.get("messages", [])]
        request = messages.list_next(request, page)
    assert len(seen) == len(set(seen)) > 20
    for form in ("full", "metadata", "minimal", "raw"):
        messages.get(userId="me", id=seen[0], format=form, metadataHeaders=["Subject", "From"]).execute()

    sent = messages.send(userId="me", body={"raw": encoded(raw("Plain", attach=b"\x00\x01" * 500))}).execute()
    assert "SENT" in sent["labelIds"]
    upload = MediaIoBaseUpload(io.BytesIO(raw("Uploaded")), mimetype="message/rfc822")
    messages.send(userId="me", body={}, media_body=upload).execute()
    upload = MediaIoBaseUpload(io.BytesIO(raw("Resumed")), mimetype="message/rfc822", resumable=True)
    resumed = messages.send(userId="me", body={"threadId": sent["threadId"]}, media_body=upload).execute()
    assert resumed["threadId"] == sent["threadId"]
    full = messages.get(userId="me", id=sent["id"]).execute()
    part = full["payload"]["parts"][1]["body"]["attachmentId"]
    data = messages.attachments().get(userId="me", messageId=sent["id"], id=part).execute()
    assert base64.urlsafe_b64decode(data["data"]) == b"\x00\x01" * 500
    back = messages.get(userId="me", id=sent["id"], format="raw").execute()
    assert b"notes.bin" in base64.urlsafe_b64decode(back["raw"])

    label = labels.create(userId="me", body={"name": "Big Deals", "labelListVisibility": "labelShow"}).execute()
    refused(labels.create(userId="me", body={"name": "big deals"}), 409)
    labels.patch(userId="me", id=label["id"], body={"name": "Deals"}).execute()
    labels.update(userId="me", id=label["id"], body={"name": "Deals", "messageListVisibility": "show"}).execute()
    change = {"addLabelIds": [label["id"]], "removeLabelIds": ["UNREAD"]}
    messages.modify(userId="me", id=seen[0], body=change).execute()
    messages.batchModify(userId="me", body={"ids": seen[:3], "addLabelIds": [label["id"]]}).execute()
    assert labels.get(userId="me", id=label["id"]).execute()["messagesTotal"] == 3
    assert len(messages.list(userId="me", q="label:deals").execute()["messages"]) == 3
    assert any(known["name"] == "Deals" for known in labels.list(userId="me").execute()["labels"])
    refused(messages.modify(userId="me", id=seen[0], body={"addLabelIds": ["Label_99"]}), 400)
    refused(messages.get(userId="me", id="0000"), 404, "notFound")
    labels.delete(userId="me", id=label["id"]).execute()

    assert "TRASH" in messages.trash(userId="me", id=seen[1]).execute()["labelIds"]
    assert "TRASH" not in messages.untrash(userId="me", id=seen[1]).execute()["labelIds"]
    came = messages.insert(
        userId="me", body={"raw": encoded(raw("Came in")), "labelIds": ["INBOX", "UNREAD"]}, internalDateSource="receivedTime", deleted=False
    ).execute()
    messages.delete(userId="me", id=came["id"]).execute()
    messages.batchDelete(userId="me", body={"ids": [seen[2]]}).execute()
    refused(messages.get(userId="me", id=seen[2]), 404)

    found = threads.list(userId="me", q="subject:Q4 subject:budget from:anna", maxResults=5, includeSpamTrash=False, labelIds=["INBOX"]).execute()["threads"]
    thread = threads.get(userId="me", id=found[0]["id"], format="metadata", metadataHeaders=["Subject"]).execute()
    assert len(thread["messages"]) > 1
    threads.modify(userId="me", id=thread["id"], body={"addLabelIds": ["STARRED"]}).execute()
    threads.trash(userId="me", id=thread["id"]).execute()
    threads.untrash(userId="me", id=thread["id"]).execute()
    threads.delete(userId="me", id=thread["id"]).execute()
    refused(threads.get(userId="me", id=thread["id"]), 404)

    draft = drafts.create(userId="me", body={"message": {"raw": encoded(raw("Draft one"))}}).execute()
    drafts.update(userId="me", id=draft["id"], body={"message": {"raw": encoded(raw("Draft two"))}}).execute()
    listed = drafts.list(userId="me", q="subject:two", maxResults=10, includeSpamTrash=False).execute()
    assert [known["id"] for known in listed["drafts"]] == [draft["id"]]
    drafts.get(userId="me", id=draft["id"], format="full").execute()
    drafts.send(userId="me", body={"id": draft["id"]}).execute()
    refused(drafts.get(userId="me", id=draft["id"]), 404)
    other = drafts.create(userId="me", body={"message": {"raw": encoded(raw("Never"))}}).execute()
    drafts.delete(userId="me", id=other["id"]).execute()

    history, request = [], users.history().list(userId="me", startHistoryId=start, maxResults=5)
    while request:
        page = request.execute()
        history += page.get("history", [])
        request = users.history().list_next(request, page)
    kinds = {kind for record in history for kind in record}
    assert {"messagesAdded", "messagesDeleted", "labelsAdded", "labelsRemoved"} <= kinds, kinds
    assert [int(record["id"]) for record in history] == sorted(int(record["id"]) for record in history)
    users.history().list(userId="me", startHistoryId=start, labelId="INBOX", historyTypes=["labelAdded"]).execute()
    control("expire", {"user": "grace"})
    refused(users.history().list(userId="me", startHistoryId=start), 404, "notFound")

    answers = {}
    whole = service("gmail", token)
    batch = whole.new_batch_http_request(callback=lambda key, answer, error: answers.update({key: error or answer}))
    for index, key in enumerate(seen[3:12]):
        batch.add(messages.get(userId="me", id=key, format="minimal"), request_id=str(index))
    batch.add(messages.get(userId="me", id="0000"), request_id="none")
    batch.execute()
    assert len(answers) == 10 and answers["none"].resp.status == 404
    # The first thread's messages went with it; the rest are there.
    there = [answer for key, answer in answers.items() if isinstance(answer, dict)]
    assert len(there) > 5 and all(answer["id"] in seen for answer in there)


def calendar(token):
    root = service("calendar", token)
    events = root.events()
    listed = root.calendarList().list(maxResults=10, minAccessRole="owner", showDeleted=False, showHidden=False).execute()
    team = next(entry["id"] for entry in listed["items"] if not entry.get("primary"))
    root.calendarList().get(calendarId="primary").execute()
    root.calendars().get(calendarId=team).execute()
    bounds = {"timeMin": "2020-01-01T00:00:00Z", "timeMax": "2040-01-01T00:00:00Z"}
    seen, request = [], events.list(calendarId="primary", singleEvents=True, orderBy="startTime", maxResults=10, **bounds)
    while request:
        page = request.execute()
        seen += [event["id"] for event in page["items"]]
        request = events.list_next(request, page)
    assert len(set(seen)) == len(seen) >= 25 and page["nextSyncToken"]
    sync = events.list(calendarId="primary", maxResults=2500).execute()["nextSyncToken"]

    body = {
        "id": "abc123def", "summary": "Talk", "start": {"dateTime": "2030-05-06T10:00:00", "timeZone": "Europe/Berlin"},
        "end": {"dateTime": "2030-05-06T11:00:00", "timeZone": "Europe/Berlin"}, "attendees": [{"email": "b@x.example", "optional": True}],
        "reminders": {"useDefault": False, "overrides": [{"method": "popup", "minutes": 5}]}, "colorId": "3",
        "extendedProperties": {"private": {"by": "test"}},
    }
    more = {"sendUpdates": "none", "conferenceDataVersion": 1, "supportsAttachments": True, "maxAttendees": 10}
    made = events.insert(calendarId="primary", body=body, sendNotifications=False, **more).execute()
    assert made["colorId"] == "3" and made["attendees"][0]["optional"] and made["extendedProperties"]["private"]["by"] == "test"
    refused(events.insert(calendarId="primary", body=body), 409, "duplicate")
    events.get(calendarId="primary", eventId=made["id"], timeZone="UTC", maxAttendees=1, alwaysIncludeEmail=False).execute()
    patched = events.patch(calendarId="primary", eventId=made["id"], body={"summary": "Long talk", "colorId": None}, alwaysIncludeEmail=False, sendNotifications=False, **more).execute()
    assert patched["summary"] == "Long talk" and "colorId" not in patched and patched["attendees"]
    whole = {key: body[key] for key in ("start", "end")} | {"summary": "Short talk"}
    updated = events.update(calendarId="primary", eventId=made["id"], body=whole, alwaysIncludeEmail=False, sendNotifications=False, **more).execute()
    assert "attendees" not in updated and updated["sequence"] == 2
    quick = events.quickAdd(calendarId="primary", text="Lunch with Ben tomorrow at 12:30", sendUpdates="none", sendNotifications=False).execute()
    assert "12:30" in quick["start"]["dateTime"], quick
    moved = events.move(calendarId="primary", eventId=quick["id"], destination=team, sendUpdates="none", sendNotifications=False).execute()
    assert events.get(calendarId=team, eventId=moved["id"]).execute()["status"] == "confirmed"
    busy = root.freebusy().query(body={"timeMin": "2030-05-06T00:00:00Z", "timeMax": "2030-05-07T00:00:00Z", "items": [{"id": "primary"}, {"id": "nobody@x.example"}]}).execute()
    assert busy["calendars"]["primary"]["busy"] == [{"start": "2030-05-06T08:00:00Z", "end": "2030-05-06T09:00:00Z"}], busy
    assert busy["calendars"]["nobody@x.example"]["errors"][0]["reason"] == "notFound"
    events.delete(calendarId="primary", eventId=made["id"], sendUpdates="none", sendNotifications=False).execute()
    refused(events.delete(calendarId="primary", eventId=made["id"]), 410, "deleted")

    changed = events.list(calendarId="primary", syncToken=sync).execute()
    assert {event["id"]: event["status"] for event in changed["items"]} == {made["id"]: "cancelled", quick["id"]: "cancelled"}
    assert events.list(calendarId="primary", syncToken=changed["nextSyncToken"]).execute()["items"] == []
    refused(events.list(calendarId="primary", syncToken=sync, q="x"), 400)
    events.list(
        calendarId="primary", q="sync", timeZone="UTC", iCalUID=made["iCalUID"], updatedMin="2020-01-01T00:00:00Z", showDeleted=True,
        showHiddenInvitations=False, eventTypes=["default"], alwaysIncludeEmail=False, maxAttendees=5,
        privateExtendedProperty=["by=test"], sharedExtendedProperty=["a=b"],
    ).execute()
    control("expire", {"user": "grace"})
    refused(events.list(calendarId="primary", syncToken=sync), 410, "fullSyncRequired")
    refused(events.list(calendarId="nobody@x.example"), 404)


def series(token):
    """Events that recur: by themselves, out of their series, and back in it."""
    events = service("calendar", token).events()
    zone = {"timeZone": "Europe/Berlin"}
    body = {
        "id": "series0", "summary": "Standup", "start": {"dateTime": "2031-10-20T10:00:00", **zone}, "end": {"dateTime": "2031-10-20T10:15:00", **zone},
        "recurrence": ["RRULE:FREQ=WEEKLY;BYDAY=MO,WE;UNTIL=20311231T225959Z", "EXDATE;TZID=Europe/Berlin:20311022T100000"],
    }
    for line in ("RRULE:FREQ=OFTEN", "RRULE:FREQ=SECONDLY;BYHOUR=0", "RRULE:FREQ=YEARLY;BYMINUTE=1,2", "RRULE:FREQ=DAILY\nRRULE:FREQ=DAILY"):
        refused(events.insert(calendarId="primary", body=body | {"recurrence": [line]}), 400, "invalid")
    nowhere = {"dateTime": "2031-10-20T10:00:00+02:00", "timeZone": "Europe/Nowhere"}
    refused(events.insert(calendarId="primary", body=body | {"start": nowhere}), 400, "invalid")
    events.insert(calendarId="primary", body=body).execute()
    window = {"timeMin": "2031-10-20T00:00:00Z", "timeMax": "2031-11-01T00:00:00Z"}
    listed = {"calendarId": "primary", "q": "standup", "singleEvents": True, "orderBy": "startTime", "timeZone": "UTC", **window}

    def starts(**more):
        return [event["start"]["dateTime"] for event in events.list(**listed | more).execute()["items"]]

    # Summer time ends between them; the 22nd is left out.
    assert starts() == ["2031-10-20T08:00:00Z", "2031-10-27T09:00:00Z", "2031-10-29T09:00:00Z"], starts()
    assert starts(maxResults=1) == ["2031-10-20T08:00:00Z"]
    whole = events.list(calendarId="primary", q="standup", **window).execute()["items"]
    assert [event["id"] for event in whole] == ["series0"] and whole[0]["recurrence"] == body["recurrence"]
    assert events.list(calendarId="primary", q="standup", timeMin="2032-01-01T00:00:00Z").execute()["items"] == []
    page = events.instances(calendarId="primary", eventId="series0", maxResults=2, timeMin=window["timeMin"], timeZone="UTC").execute()
    first, second = page["items"]
    assert first["id"] == "series0_20311020T080000Z" and first["recurringEventId"] == "series0" and "recurrence" not in first
    assert first["iCalUID"] == second["iCalUID"] and page["nextPageToken"]
    meant = events.instances(calendarId="primary", eventId="series0", originalStart="2031-10-27T10:00:00+01:00").execute()["items"]
    assert [event["id"] for event in meant] == [second["id"]]
    busy = service("calendar", token).freebusy().query(body={**window, "items": [{"id": "primary"}]}).execute()["calendars"]["primary"]["busy"]
    assert {"start": "2031-10-27T09:00:00Z", "end": "2031-10-27T09:15:00Z"} in busy, busy

    # One is put off, one is cancelled, and comes back.
    later = {"start": {"dateTime": "2031-10-20T16:00:00", **zone}, "end": {"dateTime": "2031-10-20T16:15:00", **zone}}
    put_off = events.patch(calendarId="primary", eventId=first["id"], body=later | {"recurrence": ["RRULE:FREQ=DAILY"]}).execute()
    assert "recurrence" not in put_off
    assert put_off["originalStartTime"]["dateTime"].startswith("2031-10-20T10:00:00") and put_off["id"] == first["id"]
    events.delete(calendarId="primary", eventId=second["id"]).execute()
    refused(events.delete(calendarId="primary", eventId=second["id"]), 410, "deleted")
    assert starts() == ["2031-10-20T14:00:00Z", "2031-10-29T09:00:00Z"]
    gone = events.get(calendarId="primary", eventId=second["id"]).execute()
    assert gone["status"] == "cancelled" and "summary" not in gone
    events.patch(calendarId="primary", eventId=second["id"], body={"status": "confirmed"}).execute()
    assert starts() == ["2031-10-20T14:00:00Z", "2031-10-27T09:00:00Z", "2031-10-29T09:00:00Z"]
    refused(events.get(calendarId="primary", eventId="series0_20311021T080000Z"), 404)
    refused(events.move(calendarId="primary", eventId=first["id"], destination="primary"), 404)
    # Other rules make other occurrences.
    events.patch(calendarId="primary", eventId="series0", body={"recurrence": ["RRULE:FREQ=DAILY;COUNT=2"]}).execute()
    assert starts() == ["2031-10-20T08:00:00Z", "2031-10-21T08:00:00Z"]
    events.delete(calendarId="primary", eventId="series0").execute()
    assert starts() == []
    gone = events.list(**listed, showDeleted=True).execute()["items"]
    assert {event["id"] for event in gone} == {"series0_20311020T080000Z", "series0_20311021T080000Z"}, gone
    assert all(event["status"] == "cancelled" and event["recurringEventId"] == "series0" for event in gone)
    refused(events.instances(calendarId="primary", eventId="series0"), 404)


def given(token, other):
    """What one user gives another, who may do with it what their role says."""
    mine, theirs = service("drive", token), service("drive", other)
    made = mine.files().create(body={"name": "plan.txt"}, media_body=MediaIoBaseUpload(io.BytesIO(b"one"), mimetype="text/plain")).execute()["id"]
    named = {"q": "name = 'plan.txt' and sharedWithMe", "fields": "files(id,ownedByMe,shared,parents,capabilities/canEdit,sharedWithMeTime)"}
    assert theirs.files().list(**named).execute()["files"] == []
    refused(theirs.files().get(fileId=made), 404, "notFound")
    reader = {"type": "user", "role": "reader", "emailAddress": "Ben@example.com"}
    permission = mine.permissions().create(fileId=made, body=reader).execute()["id"]
    # In whatever case an address is written, it is the same; and the owner's own stays the owner's.
    assert mine.permissions().create(fileId=made, body={**reader, "emailAddress": "ben@EXAMPLE.com"}).execute()["id"] == permission
    own = mine.permissions().create(fileId=made, body={**reader, "emailAddress": "Grace@example.com"}).execute()
    roles = {known["id"]: known["role"] for known in mine.permissions().list(fileId=made).execute()["permissions"]}
    assert own["role"] == "owner" and roles == {own["id"]: "owner", permission: "reader"}, roles
    owners = own["id"]
    assert theirs.permissions().get(fileId=made, permissionId=permission).execute()["role"] == "reader"
    found = theirs.files().list(**named).execute()["files"]
    assert len(found) == 1 and found[0]["id"] == made and found[0]["sharedWithMeTime"], found
    assert not found[0]["ownedByMe"] and found[0]["shared"] and found[0]["parents"] == [] and not found[0]["capabilities"]["canEdit"]
    assert theirs.files().get_media(fileId=made).execute() == b"one"
    # A reader changes nothing, gives it to nobody, and is not told who has it.
    for refusal in (
        theirs.files().update(fileId=made, body={"name": "mine.txt"}),
        theirs.files().update(fileId=made, media_body=MediaIoBaseUpload(io.BytesIO(b"mine"), mimetype="text/plain")),
        theirs.files().update(fileId=made, body={}),
        theirs.files().update(fileId=made, body={}, removeParents="root"),
        theirs.files().update(fileId=made, body={"trashed": True}),
        theirs.files().delete(fileId=made),
        theirs.permissions().create(fileId=made, body={**reader, "emailAddress": "carl@example.com"}),
        theirs.permissions().get(fileId=made, permissionId=owners),
        theirs.permissions().list(fileId=made),
        theirs.permissions().update(fileId=made, permissionId=permission, body={"role": "writer"}),
    ):
        refused(refusal, 403, "insufficientFilePermissions")
    assert mine.files().get_media(fileId=made).execute() == b"one"
    assert mine.files().get(fileId=made, fields="parents").execute()["parents"]
    mine.permissions().update(fileId=made, permissionId=permission, body={"role": "writer"}).execute()
    # A writer makes nobody the owner, ...
    owner = {"fileId": made, "body": {**reader, "role": "owner"}}
    refused(theirs.permissions().create(**owner), 403, "forbidden")
    refused(theirs.permissions().create(**owner, transferOwnership=True), 403, "insufficientFilePermissions")
    raised = theirs.permissions().update(fileId=made, permissionId=permission, body={"role": "owner"}, transferOwnership=True)
    refused(raised, 403, "insufficientFilePermissions")
    # ... and puts the file only into a folder that they may change, too.
    folder = mine.files().create(body={"name": "Plans", "mimeType": "application/vnd.google-apps.folder"}).execute()["id"]
    into = theirs.files().update(fileId=made, body={}, addParents=folder, fields="parents")
    refused(into, 404, "notFound")
    refused(theirs.files().update(fileId=made, body={}, addParents="root"), 404, "notFound")
    there = mine.permissions().create(fileId=folder, body=reader).execute()["id"]
    refused(into, 403, "insufficientFilePermissions")
    mine.permissions().update(fileId=folder, permissionId=there, body={"role": "writer"}).execute()
    assert into.execute()["parents"] == [folder]
    theirs.files().update(fileId=made, body={"description": "theirs"}, media_body=MediaIoBaseUpload(io.BytesIO(b"two"), mimetype="text/plain")).execute()
    assert mine.files().get_media(fileId=made).execute() == b"two"
    refused(theirs.files().update(fileId=made, body={"trashed": True}), 403, "insufficientFilePermissions")
    copied = theirs.files().copy(fileId=made, body={"name": "own.txt"}, fields="id,ownedByMe").execute()
    assert copied["ownedByMe"]
    refused(mine.files().get(fileId=copied["id"]), 404, "notFound")
    # What is in its owner's trash nobody else sees, and what is taken back neither.
    mine.files().update(fileId=made, body={"trashed": True}).execute()
    refused(theirs.files().get(fileId=made), 404, "notFound")
    mine.files().update(fileId=made, body={"trashed": False}).execute()
    theirs.permissions().delete(fileId=made, permissionId=permission).execute()
    refused(theirs.files().get(fileId=made), 404, "notFound")
    assert theirs.files().list(**named).execute()["files"] == []


def drive(token):
    root = service("drive", token)
    files, permissions = root.files(), root.permissions()
    about = root.about().get(fields="*").execute()
    assert int(about["storageQuota"]["usage"]) > 0
    refused(root.about().get(), 400, "required")
    start = root.changes().getStartPageToken(supportsAllDrives=True).execute()["startPageToken"]
    seen, request = [], files.list(pageSize=7, q="trashed = false", fields="nextPageToken,files(id,name,size)", orderBy="name", corpora="user", spaces="drive")
    while request:
        page = request.execute()
        seen += page["files"]
        request = files.list_next(request, page)
    assert len({file["id"] for file in seen}) == len(seen) >= 30
    refused(files.list(fields="files(colour)"), 400, "invalidParameter")

    ids = files.generateIds(count=2, space="drive", type="files").execute()["ids"]
    folder = files.create(body={"id": ids[0], "name": "Trips", "mimeType": "application/vnd.google-apps.folder"}, fields="id,parents").execute()
    refused(files.create(body={"id": ids[0], "name": "Twice"}), 409)
    small = MediaIoBaseUpload(io.BytesIO(b"one,two\n"), mimetype="text/csv")
    first = files.create(body={"id": ids[1], "name": "a.csv", "parents": [folder["id"]]}, media_body=small, fields="*").execute()
    assert first["size"] == "8" and first["parents"] == [folder["id"]]
    content = bytes(range(256)) * 2600
    big = MediaIoBaseUpload(io.BytesIO(content), mimetype="application/octet-stream", chunksize=256 * 1024, resumable=True)
    request, chunks, made = files.create(body={"name": "big.bin", "description": "x"}, media_body=big, fields="id,size,md5Checksum,description"), 0, None
    while made is None:
        _, made = request.next_chunk()
        chunks += 1
    import hashlib

    assert chunks == 3 and made["md5Checksum"] == hashlib.md5(content).hexdigest() and made["description"] == "x"
    out = io.BytesIO()
    download, done = MediaIoBaseDownload(out, files.get_media(fileId=made["id"]), chunksize=300_000), False
    while not done:
        _, done = download.next_chunk()
    assert out.getvalue() == content
    small = MediaIoBaseUpload(io.BytesIO(b"three\n"), mimetype="text/csv")
    files.update(fileId=first["id"], body={"name": "b.csv", "properties": {"k": "v"}}, media_body=small).execute()
    assert files.get_media(fileId=first["id"]).execute() == b"three\n"
    moved = files.update(fileId=made["id"], body={}, addParents=folder["id"], removeParents="root", fields="parents").execute()
    assert moved["parents"] == [folder["id"]]
    inside = files.list(q=f"'{folder['id']}' in parents and trashed = false").execute()["files"]
    assert {file["name"] for file in inside} == {"b.csv", "big.bin"}
    copy = files.copy(fileId=first["id"], body={"name": "c.csv"}, supportsAllDrives=True).execute()
    files.get(fileId=copy["id"], fields="id,capabilities/canEdit", acknowledgeAbuse=False).execute()

    shared = files.create(body={"name": "team.txt", "parents": ["0AAshared"]}, supportsAllDrives=True, fields="id,driveId").execute()
    assert shared["driveId"] == "0AAshared"
    refused(files.get(fileId=shared["id"]), 404, "notFound")
    named = {"q": "name = 'team.txt'", "supportsAllDrives": True}
    assert files.list(**named).execute()["files"] == []
    for more in ({}, {"corpora": "allDrives"}, {"corpora": "drive", "driveId": "0AAshared"}):
        assert len(files.list(includeItemsFromAllDrives=True, **named, **more).execute()["files"]) == 1
    refused(files.list(corpora="drive", driveId="0AAshared"), 400, "invalid")
    files.delete(fileId=shared["id"], supportsAllDrives=True).execute()

    document = next(file for file in files.list(q="mimeType = 'application/vnd.google-apps.document'").execute()["files"])
    assert files.export(fileId=document["id"], mimeType="text/plain").execute().startswith("\ufeff".encode())
    refused(files.export(fileId=document["id"], mimeType="image/png"), 400)
    text = MediaIoBaseUpload(io.BytesIO(b"x" * (11 << 20)), mimetype="text/plain", resumable=True)
    huge = files.create(body={"name": "huge", "mimeType": "application/vnd.google-apps.document"}, media_body=text).execute()
    refused(files.export(fileId=huge["id"], mimeType="text/plain"), 403, "exportSizeLimitExceeded")

    given = permissions.create(
        fileId=first["id"], body={"type": "user", "role": "reader", "emailAddress": "ben@x.example"}, sendNotificationEmail=False,
        emailMessage="Here", supportsAllDrives=True, fields="*",
    ).execute()
    permissions.get(fileId=first["id"], permissionId=given["id"]).execute()
    permissions.update(fileId=first["id"], permissionId=given["id"], body={"role": "writer"}).execute()
    roles = {known["id"]: known["role"] for known in permissions.list(fileId=first["id"], pageSize=10).execute()["permissions"]}
    assert roles[given["id"]] == "writer" and len(roles) == 2
    permissions.delete(fileId=first["id"], permissionId=given["id"]).execute()
    refused(permissions.create(fileId=first["id"], body={"type": "user", "role": "king", "emailAddress": "a@b.example"}), 400)

    files.update(fileId=copy["id"], body={"trashed": True}).execute()
    assert [file["id"] for file in files.list(q="trashed = true").execute()["files"]] == [copy["id"]]
    files.emptyTrash().execute()
    refused(files.get(fileId=copy["id"]), 404, "notFound")
    files.delete(fileId=folder["id"]).execute()
    refused(files.get(fileId=made["id"]), 404, "notFound")

    changes, page_token = [], start
    while page_token:
        page = root.changes().list(pageToken=page_token, pageSize=2, includeRemoved=True, spaces="drive", fields="*").execute()
        changes += page["changes"]
        page_token = page.get("nextPageToken")
    gone = {change["fileId"] for change in changes if change["removed"]}
    assert gone == {folder["id"], first["id"], made["id"], copy["id"], shared["id"]} and page["newStartPageToken"]
    assert [change["fileId"] for change in changes if not change["removed"]] == [huge["id"]]
    refused(root.changes().list(pageToken="x"), 400)


def every_parameter(api, token):
    """Asks again with each parameter that was not used above: it must be known."""
    known = control("state", method="GET")["requests"]
    for claimed in CLAIMED[f"{api}.v3" if api != "gmail" else "gmail.v1"]:
        name = claimed.replace("gmail.users.", "gmail.")
        assert known.get(name, 0) > 0 or claimed in COVERED, f"{claimed} was never asked"
        method = METHODS[claimed]
        base = "" if api == "gmail" else DOCUMENTS[api]["servicePath"]
        path, query = base + method["path"], []
        for key, spec in method.get("parameters", {}).items():
            if spec["location"] == "path":
                path = path.replace("{" + key + "}", "me" if key == "userId" else "nothing0").replace("{+" + key + "}", "x")
                continue
            value = {"boolean": "false", "integer": spec.get("minimum", "1")}.get(spec["type"], "1")
            value = spec["enum"][0] if "enum" in spec else value
            if spec.get("format") == "date-time":
                value = "2026-01-01T00:00:00Z"
            query.append((key, value))
            COVERED.setdefault(claimed, set()).add(key)
        request = urllib.request.Request(
            URL + path + "?" + urllib.parse.urlencode(query + [("prettyPrint", "false"), ("quotaUser", "u")]), method=method["httpMethod"],
            headers={"authorization": "Bearer " + token, "content-type": "application/json"}, data=b"{}" if method["httpMethod"] != "GET" else None,
        )
        text = ""
        try:
            urllib.request.urlopen(request).read()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
        assert "Cannot bind query parameter" not in text and "invalidParameter" not in text, (claimed, text)
        with_unknown = urllib.request.Request(request.full_url + "&colour=red", method=method["httpMethod"], headers=dict(request.header_items()), data=request.data)
        try:
            urllib.request.urlopen(with_unknown)
            raise AssertionError(f"{claimed} took a parameter that there is not")
        except urllib.error.HTTPError as error:
            assert error.code == 400, (claimed, error.code)


def oauth():
    import hashlib

    scopes = "openid https://mail.google.com/ https://www.googleapis.com/auth/calendar https://www.googleapis.com/auth/drive"
    verifier = "v" * 43
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).decode().rstrip("=")

    class Stay(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *args):
            return None

    def consent(**more):
        query = {
            "client_id": "c", "redirect_uri": "http://127.0.0.1:1/back", "response_type": "code", "scope": scopes, "state": "s t",
            "access_type": "offline", "prompt": "consent", "code_challenge": challenge, "code_challenge_method": "S256", "login_hint": "grace", **more,
        }
        try:
            urllib.request.build_opener(Stay).open(URL + "o/oauth2/v2/auth?" + urllib.parse.urlencode(query))
        except urllib.error.HTTPError as error:
            assert error.code == 302, error.read()
            return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(error.headers["location"]).query))

    def exchange(code, **more):
        return post("token", {"grant_type": "authorization_code", "code": code, "client_id": "c", "client_secret": "s",
                              "redirect_uri": "http://127.0.0.1:1/back", "code_verifier": verifier, **more})

    assert consent(sim_consent="deny")["error"] == "access_denied"
    back = consent()
    assert back["state"] == "s t" and back["scope"] == scopes
    assert exchange(consent()["code"], code_verifier="w" * 43)[1]["error"] == "invalid_grant"
    status, grant = exchange(back["code"])
    assert status == 200 and grant["scope"] == scopes, grant
    assert exchange(back["code"])[1]["error"] == "invalid_grant"

    # A subset: what was not granted is refused, with the reason that clients look for.
    only = exchange(consent(sim_scope="https://www.googleapis.com/auth/drive")["code"])[1]
    assert only["scope"] == "https://www.googleapis.com/auth/drive"
    refused(service("gmail", only["access_token"]).users().getProfile(userId="me"), 403, "insufficientPermissions")
    assert service("drive", only["access_token"]).files().list(pageSize=1).execute()["files"]

    # Rotation: the old token ends with the new one.
    control("plan", b"[oauth]\nrotate_refresh_tokens = true\ntoken_lifetime_s = 5\n")
    status, rotated = token_of(grant["refresh_token"])
    assert status == 200 and rotated["refresh_token"] != grant["refresh_token"] and rotated["expires_in"] == 5
    assert token_of(grant["refresh_token"])[1]["error"] == "invalid_grant"
    assert token_of(rotated["refresh_token"])[0] == 200
    control("plan", b"")

    info = service("oauth2", grant["access_token"])
    assert info.userinfo().get().execute()["email"] == "grace@example.com"
    assert info.userinfo().v2().me().get().execute()["id"]
    assert "email" in info.tokeninfo(access_token=grant["access_token"]).execute()
    return grant, consent, exchange


def quotas(token):
    """Google's limits, with the reasons clients look for."""
    control("plan", b"[quota.gmail]\nuser_units_per_minute = 45\n[quota.calendar]\ndaily_units = 2\n[quota.drive]\nproject_units_per_minute = 10\nrate_status = 429\n")
    control("reset", {})
    messages = service("gmail", token).users().messages()
    first = messages.list(userId="me", maxResults=1).execute()["messages"][0]["id"]
    messages.get(userId="me", id=first).execute()
    messages.get(userId="me", id=first).execute()
    refused(messages.list(userId="me"), 403, "userRateLimitExceeded")
    events = service("calendar", token).events()
    events.list(calendarId="primary").execute()
    events.list(calendarId="primary").execute()
    refused(events.list(calendarId="primary"), 403, "dailyLimitExceeded")
    files = service("drive", token).files()
    found = files.get(fileId="root").execute()["id"]
    files.get(fileId=found).execute()
    refused(files.get(fileId=found), 429, "rateLimitExceeded")
    quota = control("state", method="GET")["quota"]
    assert quota["gmail"]["units"] == 45 and quota["calendar"]["refused"] == {"dailyLimitExceeded": 1}, quota
    control("plan", b"")
    control("reset", {})


def main():
    grant, consent, exchange = oauth()
    token = grant["access_token"]
    gmail(token)
    calendar(token)
    drive(token)
    series(token)
    given(token, exchange(consent(login_hint="ben")["code"])[1]["access_token"])
    state = control("state", method="GET")
    assert state["answers_unfit"]["count"] == 0, state["answers_unfit"]
    changes = state["users"]["grace"]["changes"]
    assert changes["gmail.messages.send"] == 3 and changes["drive.permissions.create"] == 5, changes
    for api in ("gmail", "calendar", "drive"):
        every_parameter(api, token)
    quotas(exchange(consent()["code"])[1]["access_token"])
    grant = exchange(consent()["code"])[1]
    assert post("revoke", {"token": grant["refresh_token"]})[0] == 200
    assert post("revoke", {"token": grant["refresh_token"]})[1]["error"] == "invalid_token"
    assert token_of(grant["refresh_token"])[1]["error"] == "invalid_grant"
    # By hand: the client would try to refresh.
    request = urllib.request.Request(URL + "gmail/v1/users/me/profile", headers={"authorization": "Bearer " + grant["access_token"]})
    try:
        urllib.request.urlopen(request)
        raise AssertionError("a revoked token was taken")
    except urllib.error.HTTPError as error:
        assert error.code == 401
    print(json.dumps({"methods": len(COVERED), "parameters": sum(map(len, COVERED.values()))}))


if __name__ == "__main__":
    main()
