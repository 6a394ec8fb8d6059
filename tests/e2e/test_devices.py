"""Devices and sessions: listed, signed out, ended by another password and by their token's end; on one node and two."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import trio

from tests.e2e.cluster import Cluster, Peer
from tests.e2e.http_client import post

OLD, NEW = "correct horse", "battery staple"


async def hello(cluster: Cluster, node: int, token: str, device: str, **fields: str) -> Peer:
    """A session that is live, or the one that was refused: then ``welcome`` is the bye."""
    peer = await Peer.bare(cluster.server(node))
    await peer.send({"t": "hello", "token": token, "device": device, **fields})
    peer.welcome = await peer.until(lambda m: m["t"] in ("welcome", "bye"))
    if peer.welcome["t"] == "welcome":
        peer.cseq = peer.welcome["cseq"]
        await peer.until(lambda m: m["t"] == "live")
    return peer


async def online(peer: Peer) -> dict[str, bool]:
    return {entry["device"]: entry["online"] for entry in (await peer.ask("devices"))["devices"]}


async def until_offline(peer: Peer, device: str) -> None:
    with trio.fail_after(20):
        while (await online(peer))[device]:
            await trio.sleep(0.05)


async def test_devices_are_listed(cluster: Cluster) -> None:
    """With their last use, what they are, and whether they are there, on whatever node; and gone when they go."""
    phone = await hello(cluster, 1, cluster.token("lister"), "phone", agent="phone/1.0")
    desk = await hello(cluster, 0, cluster.token("lister"), "desk")
    devices = (await desk.ask("devices"))["devices"]
    assert [(entry["device"], entry["online"], entry.get("agent")) for entry in devices] == [
        ("desk", True, None), ("phone", True, "phone/1.0")
    ]  # fmt: skip
    assert 0 <= phone.welcome["time"] - devices[1]["used"] < 20_000
    await phone.vanish()
    await until_offline(desk, "phone")
    assert (await online(desk))["desk"]


async def test_a_stopped_node_takes_its_devices_offline(tmp_path: Path) -> None:
    """A node that was told to stop says so: its devices are not shown as online until a lease ends."""
    cluster = Cluster(tmp_path, 2, "[server]\ndrain_seconds = 0.0\n")
    try:
        desk = await hello(cluster, 0, cluster.token("ann"), "desk")
        phone = await hello(cluster, 1, cluster.token("ann"), "phone")
        assert (await online(desk))["phone"]
        async with trio.open_nursery() as nursery:

            async def take_leave() -> None:
                await phone.closed()
                await phone.vanish()  # or the node waits for it, in which time the sessions that are over are told one by one

            nursery.start_soon(take_leave)
            assert await trio.to_thread.run_sync(cluster.server(1).terminate) == 0
        assert not (await online(desk))["phone"]
    finally:
        cluster.stop()


async def test_a_sign_out_ends_the_sessions_everywhere(cluster: Cluster) -> None:
    """With ``signed_out``; its token is good for nothing any more, on any node and under any name; with another one the
    device is a new one whose ``cseq`` goes on. Nobody else is touched."""
    token = cluster.token("loser")
    lost = await hello(cluster, 1, token, "lost")
    kept = await hello(cluster, 1, cluster.token("loser"), "kept")
    desk = await hello(cluster, 0, cluster.token("loser"), "desk")
    friend = await hello(cluster, 1, cluster.token("friend"), "lost")
    await lost.say("@friend", "mine")
    assert (await desk.ask("sign_out", device="lost"))["t"] == "ok"
    assert await lost.closed() == 4206
    assert lost.seen[-1]["reason"] == "signed_out"
    assert "lost" not in await online(desk)
    for node in (0, 1):
        for device in ("lost", "kept", "another"):
            refused = await hello(cluster, node, token, device)
            assert refused.welcome["code"] == 4200
    assert (await kept.say("@friend", "still here"))["t"] == "ack"
    assert (await friend.say("@loser", "so am I"))["t"] == "ack"
    back = await hello(cluster, 1, cluster.token("loser"), "lost")
    assert back.welcome["cseq"] == 1


async def test_who_signs_the_own_device_out_is_answered_first(cluster: Cluster) -> None:
    """``ok``, and then the goodbye; a device that is not there is ``not_found``."""
    peer = await hello(cluster, 0, cluster.token("leaver"), "this")
    assert (await peer.ask("sign_out", device="that"))["code"] == "not_found"
    assert (await peer.ask("sign_out", device="this"))["t"] == "ok"
    assert await peer.closed() == 4206


async def test_who_goes_during_the_hello_is_not_online(cluster: Cluster) -> None:
    """The store has noted the session by then, and is told that it is over."""
    for number in range(40):
        peer = await Peer.bare(cluster.server(1))
        await peer.send({"t": "hello", "token": cluster.token("shy"), "device": f"d{number}"})
        await peer.vanish()
    desk = await hello(cluster, 0, cluster.token("shy"), "desk")
    with trio.fail_after(20):
        while {device for device, there in (await online(desk)).items() if there} != {"desk"}:
            await trio.sleep(0.05)


async def test_a_takeover_that_the_bus_loses(deaf_cluster: Cluster) -> None:
    """The older session changes nothing more, and what it asks for tells it: requests do so as sends do."""
    older = await hello(deaf_cluster, 1, deaf_cluster.token("ann"), "phone")
    await hello(deaf_cluster, 0, deaf_cluster.token("ann"), "phone")
    assert (await older.ask("create", title="t", members=[]))["code"] == "out_of_place"
    assert await older.closed() == 4203


async def test_a_session_ends_with_its_token(cluster: Cluster) -> None:
    """Of two devices on one token one is signed out: the token is revoked, and that ends the session of the other."""
    token = cluster.token("sharer")
    one, other = await hello(cluster, 0, token, "one"), await hello(cluster, 1, token, "other")
    desk = await hello(cluster, 0, cluster.token("sharer"), "desk")
    await desk.ask("sign_out", device="one")
    assert await one.closed() == 4206
    assert await other.closed() == 4206
    assert set(await online(desk)) == {"desk", "other"}


async def test_a_sign_out_that_the_bus_loses(deaf_cluster: Cluster) -> None:
    """The other node finds it in the store, within 5 s; until then what the session sends is refused by the store, and that
    ends it, too."""
    quiet = await hello(deaf_cluster, 1, deaf_cluster.token("ann"), "quiet")
    desk = await hello(deaf_cluster, 0, deaf_cluster.token("ann"), "desk")
    await desk.ask("sign_out", device="quiet")
    with trio.fail_after(5):
        assert await quiet.closed() == 4206
    loud = await hello(deaf_cluster, 1, deaf_cluster.token("ann"), "loud")
    await desk.ask("sign_out", device="loud")
    await loud.send({"t": "send", "cseq": 1, "to": "@ann", "body": "too late"})
    assert await loud.closed() == 4206
    assert not [message for message in loud.seen if message["t"] in ("ack", "event")]


async def test_another_password_ends_the_other_sessions(cluster: Cluster) -> None:
    """All but those of the named device, which go on; the tokens before are over, the kept device's own, too."""
    await post(cluster.server(0), "/v1/accounts", name="changer", password=OLD)
    old = (await post(cluster.server(0), "/v1/tokens", name="changer", password=OLD)).json["token"]
    kept, far, near = [await hello(cluster, node, old, device) for node, device in ((0, "kept"), (1, "far"), (0, "near"))]
    signed = await post(
        cluster.server(0), "/v1/password", name="changer", password=OLD, new_password=NEW, device="kept"
    )
    assert signed.status == 200
    assert await far.closed() == 4206
    assert await near.closed() == 4206
    assert (await kept.say("@changer", "still here"))["t"] == "ack"
    assert (await hello(cluster, 1, old, "kept")).welcome["code"] == 4200
    assert (await post(cluster.server(0), "/v1/tokens", name="changer", password=OLD)).status == 401
    assert (await hello(cluster, 1, signed.json["token"], "far")).welcome["t"] == "welcome"


async def test_the_operator_ends_all_of_them(cluster: Cluster) -> None:
    """``chatd user passwd`` beside running servers, which nobody tells: they find it in the store within 5 s."""
    await post(cluster.server(0), "/v1/accounts", name="victim", password=OLD)
    old = (await post(cluster.server(0), "/v1/tokens", name="victim", password=OLD)).json["token"]
    peers = [await hello(cluster, node, old, f"d{node}") for node in (0, 1)]
    command = [sys.executable, "-m", "chatd", "user", "passwd", "victim", "--data", str(cluster.data)]
    done = await trio.run_process(command, stdin=f"{NEW}\n".encode(), capture_stdout=True, stderr=subprocess.STDOUT)
    assert done.stdout == b"changed the password of victim\n"
    with trio.fail_after(5):
        for peer in peers:
            assert await peer.closed() == 4206
    assert (await hello(cluster, 0, old, "d0")).welcome["code"] == 4200
    assert (await post(cluster.server(0), "/v1/tokens", name="victim", password=NEW)).status == 200


async def test_a_token_that_expires_ends_its_session(cluster: Cluster) -> None:
    """With ``token_expired``, whatever the session does; another token goes on."""
    peer = await hello(cluster, 1, cluster.token("mortal", 2), "phone")
    lasting = await hello(cluster, 1, cluster.token("mortal"), "desk")
    assert await peer.closed() == 4201
    assert (await lasting.say("@mortal", "still here"))["t"] == "ack"
