"""Read your writes through web frameworks and SQLAlchemy, on a primary whose replica stands still when it is told to."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
import sqlalchemy
from flask import Flask
from sqlalchemy.orm import Session as OrmSession
from tests.integration.routing_tools import Trio, hold, release, trio

import walcast
from walcast.integrations.asgi import TokenMiddleware
from walcast.integrations.carrier import TokenCarrier
from walcast.integrations.flask import install
from walcast.integrations.sqlalchemy import engine_router
from walcast.testing.plugin import or_skip
from walcast.testing.postgres import PostgresFactory

pytestmark = pytest.mark.xdist_group("routing")
KEY = "a key for tests, long enough"
READ = "select n from t where id = 1"


@pytest.fixture(scope="module")
def shared() -> Iterator[Trio]:
    factory = PostgresFactory()
    with trio(lambda version: or_skip(lambda: factory(version))) as servers:
        yield servers
    factory.close()


@pytest.fixture
def servers(shared: Trio) -> Iterator[Trio]:
    """Both replicas stand still at n = 0."""
    shared.primary.execute("update t set n = 0")
    shared.catch_up()
    hold(shared.one, shared.two)
    yield shared
    release(shared.one, shared.two)


@pytest.fixture
def router(servers: Trio) -> Iterator[walcast.Router[psycopg.Connection[Any]]]:
    with walcast.Router[psycopg.Connection[Any]](servers.dsns, interval=0.2) as opened:
        yield opened


def test_flask(router: walcast.Router[psycopg.Connection[Any]]) -> None:
    app = Flask("shop")
    install(app, router, TokenCarrier(keys=[KEY], secure=False))

    @app.post("/<int:n>")
    def change(n: int) -> str:
        with router.write() as lease:
            lease.connection.execute("update t set n = %s", [n])
        return str(router.query(READ)[0][0])

    @app.get("/")
    def show() -> str:
        return str(router.query(READ)[0][0])

    mine, other = app.test_client(), app.test_client()
    answer = mine.post("/5")
    assert answer.text == "5", "within the request"
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert mine.get("/").text == "5", "in the next one"
    assert other.get("/").text == "0", "who has not written need not wait"
    token = answer.headers["X-Walcast-Token"]
    assert other.get("/", headers={"X-Walcast-Token": token}).text == "5", "in another service"
    for forged in (
        token[:-2] + ("AA" if token[-2] != "A" else "BA"),
        token.partition(".")[0],
        "no token",
        "é",
    ):
        assert other.get("/", headers={"X-Walcast-Token": forged}).text == "0"
    assert "Set-Cookie" not in mine.get("/").headers


def test_asgi(servers: Trio) -> None:
    async def main() -> None:
        async with walcast.AsyncRouter(servers.dsns, interval=0.2) as router:

            async def app(scope: Any, receive: Any, send: Any) -> None:
                if scope["method"] == "POST":
                    async with router.write() as lease:
                        await lease.connection.execute("update t set n = 6")
                body = str((await router.query(READ))[0][0]).encode()
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": body})

            carrier = TokenCarrier(keys=[KEY])
            wrapped = TokenMiddleware(app, router, carrier)

            async def call(method: str, **headers: str) -> tuple[dict[bytes, bytes], bytes]:
                said: list[Any] = []

                async def receive() -> Any:
                    return {"type": "http.request"}

                async def send(message: Any) -> None:
                    said.append(message)

                sent = [(k.replace("_", "-").encode(), v.encode()) for k, v in headers.items()]
                await wrapped({"type": "http", "method": method, "headers": sent}, receive, send)
                return dict(said[0]["headers"]), said[1]["body"]

            headers, body = await call("POST")
            assert body == b"6"
            cookie = headers[b"set-cookie"].decode().partition(";")[0]
            assert (await call("GET"))[1] == b"0"
            assert (await call("GET", cookie=f"a=b; {cookie}"))[1] == b"6"
            assert (await call("GET", cookie=cookie[:-1] + "!"))[1] == b"0"
            assert (await call("GET", x_walcast_token=headers[b"x-walcast-token"].decode()))[1] == b"6"

    asyncio.run(main())


def test_a_token_of_a_stranger_or_of_a_lost_write_fails_no_request(
    router: walcast.Router[psycopg.Connection[Any]], caplog: pytest.LogCaptureFixture
) -> None:
    carrier = TokenCarrier()
    mine = router.token()
    stranger = walcast.Token(mine.system_id + 1, 1, mine.lsn)
    assert carrier.read(router, str(stranger), f"walcast={mine}") == mine
    assert carrier.read(router, None, "walcast=" + "x" * 5000) is None
    assert carrier.read(router, None, "=;;;\x00") is None
    assert "token_refused" in caplog.text


def test_sqlalchemy(servers: Trio) -> None:
    table = sqlalchemy.table("t", sqlalchemy.column("id"), sqlalchemy.column("n"))
    with engine_router(servers.dsns, interval=0.2) as router:
        with router.write() as write:
            write.connection.execute(table.update().values(n=7))
        with router.read(write.token) as read, OrmSession(read.connection) as session:
            assert session.execute(sqlalchemy.select(table.c.n)).scalar() == 7
        assert router.run(lambda c: c.execute(sqlalchemy.select(table.c.n)).scalar(), "any") == 0
        with router.read(write.token) as read:
            with pytest.raises(sqlalchemy.exc.InternalError, match="read-only"):
                read.connection.execute(table.update().values(n=8))
            read.connection.rollback()
        with router.write() as write:
            write.connection.execute(table.update().values(n=9))
        release(servers.two)
        assert (
            router.run(lambda c: c.execute(sqlalchemy.select(table.c.n)).scalar(), write.token, wait=10) == 9
        )
        assert [line.busy for line in router.status()] == [0, 0, 0]


DJANGO = """
import json, sys
import django
from django.conf import settings
from django.db import connections, models, transaction
from django.http import HttpResponse
from django.urls import path

def database(port, password):
    return {"ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": "127.0.0.1",
            "PORT": port, "PASSWORD": password}

ports, password = json.loads(sys.argv[1]), sys.argv[2]
settings.configure(
    DATABASES={name: database(port, password) for name, port in ports.items()},
    DATABASE_ROUTERS=["walcast.integrations.django.ReplicaRouter"],
    MIDDLEWARE=["walcast.integrations.django.TokenMiddleware"],
    WALCAST={"keys": ["a key for django, long enough"], "secure": False, "interval": 0.2},
    ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="x", INSTALLED_APPS=[],
)
django.setup()

class T(models.Model):
    n = models.IntegerField()
    class Meta:
        app_label = "shop"
        db_table = "t"
        managed = False

def view(request, n=None):
    if n is not None:
        T(id=1, n=n).save(force_update=True)
    with transaction.atomic():
        inside = T.objects.get(id=1)._state.db
    found = T.objects.get(id=1)
    return HttpResponse(json.dumps([found.n, found._state.db, inside]))

urlpatterns = [path("", view), path("<int:n>", view)]

from django.test import Client
mine, other = Client(), Client()
said = [json.loads(mine.get(url).content) for url in ("/", "/11", "/")]
said.append(json.loads(other.get("/").content))
print(json.dumps(said))
from walcast.integrations.django import router
router().close()
connections.close_all()
"""


def test_django(servers: Trio, tmp_path: Path) -> None:
    script = tmp_path / "shop.py"
    script.write_text(textwrap.dedent(DJANGO))
    ports = {"default": servers.primary.port, "one": servers.one.port, "two": servers.two.port}
    done = subprocess.run(
        [sys.executable, "-W", "error", script, json.dumps(ports), servers.primary.password],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    before, wrote, after, stranger = json.loads(done.stdout)
    assert before[0] == 0
    assert before[1] != "default"
    assert wrote == [11, "default", "default"]
    assert after == [11, "default", "default"]
    assert stranger[0] == 0
    assert {before[2], stranger[2]} <= {"default"}
