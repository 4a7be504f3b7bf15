"""Measures dump and load of a database: ours, and the runbook's `mysqldump | gzip` and `gunzip | mysql`.

TPC-H by tpchgen-cli and a wide table of mixed types, on real servers in containers. Runs alternate. Ours is encrypted for two
recipients, signed, and made durable before it ends; each load goes into a server that was just made.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from measure import Table, run, stored_mb

TABLES = {
    "region": "r_regionkey int PRIMARY KEY, r_name char(25) NOT NULL, r_comment varchar(152)",
    "nation": "n_nationkey int PRIMARY KEY, n_name char(25) NOT NULL, n_regionkey int NOT NULL, n_comment varchar(152)",
    "part": "p_partkey int PRIMARY KEY, p_name varchar(55) NOT NULL, p_mfgr char(25) NOT NULL, p_brand char(10) NOT NULL, "
    "p_type varchar(25) NOT NULL, p_size int NOT NULL, p_container char(10) NOT NULL, p_retailprice decimal(15,2) NOT NULL, "
    "p_comment varchar(23) NOT NULL",
    "supplier": "s_suppkey int PRIMARY KEY, s_name char(25) NOT NULL, s_address varchar(40) NOT NULL, s_nationkey int NOT NULL, "
    "s_phone char(15) NOT NULL, s_acctbal decimal(15,2) NOT NULL, s_comment varchar(101) NOT NULL, KEY (s_nationkey)",
    "partsupp": "ps_partkey int NOT NULL, ps_suppkey int NOT NULL, ps_availqty int NOT NULL, ps_supplycost decimal(15,2) NOT NULL, "
    "ps_comment varchar(199) NOT NULL, PRIMARY KEY (ps_partkey, ps_suppkey), KEY (ps_suppkey)",
    "customer": "c_custkey int PRIMARY KEY, c_name varchar(25) NOT NULL, c_address varchar(40) NOT NULL, c_nationkey int NOT NULL, "
    "c_phone char(15) NOT NULL, c_acctbal decimal(15,2) NOT NULL, c_mktsegment char(10) NOT NULL, c_comment varchar(117) NOT NULL, "
    "KEY (c_nationkey)",
    "orders": "o_orderkey bigint PRIMARY KEY, o_custkey int NOT NULL, o_orderstatus char(1) NOT NULL, o_totalprice decimal(15,2) NOT NULL, "
    "o_orderdate date NOT NULL, o_orderpriority char(15) NOT NULL, o_clerk char(15) NOT NULL, o_shippriority int NOT NULL, "
    "o_comment varchar(79) NOT NULL, KEY (o_custkey), KEY (o_orderdate)",
    "lineitem": "l_orderkey bigint NOT NULL, l_partkey int NOT NULL, l_suppkey int NOT NULL, l_linenumber int NOT NULL, "
    "l_quantity decimal(15,2) NOT NULL, l_extendedprice decimal(15,2) NOT NULL, l_discount decimal(15,2) NOT NULL, "
    "l_tax decimal(15,2) NOT NULL, l_returnflag char(1) NOT NULL, l_linestatus char(1) NOT NULL, l_shipdate date NOT NULL, "
    "l_commitdate date NOT NULL, l_receiptdate date NOT NULL, l_shipinstruct char(25) NOT NULL, l_shipmode char(10) NOT NULL, "
    "l_comment varchar(44) NOT NULL, PRIMARY KEY (l_orderkey, l_linenumber), KEY (l_partkey, l_suppkey), KEY (l_shipdate)",
}
# Every kind of type, a third of the bytes of it binary.
WIDE = """
CREATE TABLE wide (id bigint unsigned PRIMARY KEY AUTO_INCREMENT, uuid char(36) NOT NULL, flag tinyint(1), score double, ratio float,
  price decimal(20,6), born date, at datetime(6), stamp timestamp NULL, clock time(3), kind enum('a','b','c'), tags set('x','y','z'),
  note text, body mediumtext, picture mediumblob, document json, KEY (uuid), KEY (at));
INSERT INTO wide (uuid, flag, score, ratio, price, born, at, stamp, clock, kind, tags, note, body, picture, document)
  WITH RECURSIVE n AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
  SELECT UUID(), i % 2, RAND() * 1e9, RAND(), RAND() * 1e6, '2024-01-01' + INTERVAL i DAY, NOW(6), NOW(), '12:34:56.789',
    ELT(1 + i % 3, 'a', 'b', 'c'), 'x,z', REPEAT(SHA2(i, 256), 2), REPEAT(CONCAT(SHA2(RAND(), 256), '\\n\\t', i), 25),
    RANDOM_BYTES(1000), JSON_OBJECT('id', i, 'name', SHA2(i, 256), 'list', JSON_ARRAY(i, i * 2, RAND())) FROM n;
"""
GROW = (
    "INSERT INTO wide (uuid, flag, score, ratio, price, born, at, stamp, clock, kind, tags, note, body, picture, document) "
    "SELECT UUID(), flag, RAND(), ratio, price, born, at, stamp, clock, kind, tags, note, CONCAT(body, RAND()), RANDOM_BYTES(1000), document FROM wide"
)


@dataclass
class Engine:
    """A server that is measured."""

    name: str
    image: str
    client: str
    dumper: str
    load_goal: float


ENGINES = {
    "mysql": Engine("mysql", "chom/mysql:9.7", "mysql", "mysqldump", 5),
    "mariadb": Engine("mariadb", "chom/mariadb:11.8", "mariadb", "mariadb-dump", 3.5),
}


class Server:
    """A server in a container; its data lies in a volume, as in production."""

    def __init__(self, engine: Engine, *flags: str) -> None:
        self.engine = engine
        self.password = secrets.token_hex(16)
        self.name = f"chom-bench-{secrets.token_hex(6)}"
        memory = "--innodb-buffer-pool-size=1G"
        self.docker(
            "run", "-d", "--name", self.name, "-e", "MYSQL_ROOT_PASSWORD", "-e", "MYSQL_ROOT_HOST=%", "-e", "MYSQL_INITDB_SKIP_TZINFO=1",
            engine.image, memory, "--local-infile=ON", *flags, MYSQL_ROOT_PASSWORD=self.password,
        )  # fmt: skip
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        self.address = self.docker("inspect", "-f", form, self.name).strip()
        end = time.monotonic() + 180
        # Over TCP: the image's first start answers on its socket alone.
        while self.try_sql("SELECT 1", "--protocol=tcp", "-h127.0.0.1") != 0:
            if time.monotonic() > end:
                sys.exit(f"{engine.image} did not start:\n{self.docker('logs', '--tail', '30', self.name)}")
            time.sleep(0.5)

    @staticmethod
    def docker(*arguments: str, **environment: str) -> str:
        done = subprocess.run(["docker", *arguments], env={**os.environ, **environment}, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"docker {arguments[0]}: {done.stderr}")
        return done.stdout

    def tool(self, name: str, *arguments: str) -> list[str]:
        """A client in the server's own container; the password is in the environment."""
        return ["docker", "exec", "-i", "-e", "MYSQL_PWD", self.name, name, "-uroot", *arguments]

    def try_sql(self, sql: str, *arguments: str) -> int:
        command = self.tool(self.engine.client, *arguments, "-e", sql)
        return subprocess.run(command, env={**os.environ, "MYSQL_PWD": self.password}, capture_output=True).returncode

    def sql(self, sql: str, schema: str = "", data: Path | None = None) -> str:
        command = self.tool(self.engine.client, "--local-infile=1", "-N", "-e", sql, *([schema] if schema else []))
        with open(data or os.devnull, "rb") as stdin:
            done = subprocess.run(command, env={**os.environ, "MYSQL_PWD": self.password}, stdin=stdin, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{self.engine.name}: {done.stderr}")
        return done.stdout

    def shell(self, script: str) -> list[str]:
        return ["bash", "-o", "pipefail", "-c", script]

    def close(self) -> None:
        self.docker("rm", "-f", "-v", self.name)


def fill(server: Server, data: Path, scale: float) -> None:
    server.sql("CREATE DATABASE tpch; CREATE DATABASE mixed")
    for table, columns in TABLES.items():
        server.sql(f"CREATE TABLE {table} ({columns})", "tpch")
        load = f"LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE {table} FIELDS TERMINATED BY '|'"
        server.sql(load, "tpch", data / f"{table}.tbl")
    server.sql("SET cte_max_recursion_depth = 10000;" + WIDE if server.engine.name == "mysql" else WIDE, "mixed")
    while int(server.sql("SELECT COUNT(*) FROM wide", "mixed")) < 60_000 * scale:
        server.sql(GROW, "mixed")
    server.sql("ANALYZE TABLE tpch.lineitem, tpch.orders, mixed.wide")


def rows_of(server: Server) -> str:
    tables = [f"tpch.{table}" for table in TABLES] + ["mixed.wide"]
    return server.sql("; ".join(f"SELECT COUNT(*) FROM {table}" for table in tables))


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--tpchgen", required=True, help="tpchgen-cli")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scale", type=float, default=100, help="size of the data, in percent of TPC-H scale 1")
    parser.add_argument("--engine", action="append", choices=sorted(ENGINES), help="only this one")
    parser.add_argument("--folder", type=Path, default=None, help="where to work")
    arguments = parser.parse_args()
    program, scale = str(Path(arguments.program).resolve()), arguments.scale / 100

    table = Table()
    with tempfile.TemporaryDirectory(prefix="bench-database-", dir=arguments.folder) as name:
        work = Path(name)
        data = work / "tpch"
        print("making the data", file=sys.stderr)
        run([arguments.tpchgen, "--scale-factor", str(scale), "--output-dir", str(data)])
        for engine in [ENGINES[name] for name in arguments.engine or ENGINES]:
            measure(table, engine, program, work, data, scale, arguments.runs)
    return table.finish()


def measure(table: Table, engine: Engine, program: str, work: Path, data: Path, scale: float, runs: int) -> None:
    flags = subprocess.run([program, "flags", engine.name], check=True, capture_output=True, text=True).stdout.split()
    source = Server(engine)
    servers = [source]
    try:
        print(f"filling {engine.name}", file=sys.stderr)
        fill(source, data, scale)
        wanted = rows_of(source)
        ours, gzip = work / f"ours-{engine.name}", work / f"{engine.name}.sql.gz"
        what = {part: f"{engine.name}: {part}" for part in ("ours dump", "mysqldump | gzip", "ours load", "gunzip | mysql")}
        for _ in range(runs):
            shutil.rmtree(ours, ignore_errors=True)
            run([program, "init", str(ours)])
            login = {"BENCH_PASSWORD": source.password}
            table.note(what["ours dump"], run([program, "dump", str(ours), source.address], **login))
            dump = " ".join(source.tool(engine.dumper, "--single-transaction", "--quick", "--routines", "--triggers", "--databases", "tpch", "mixed"))
            table.note(what["mysqldump | gzip"], run(source.shell(f"{dump} | gzip > {gzip}"), MYSQL_PWD=source.password))
            for part in ("ours load", "gunzip | mysql"):
                # Both into a server as a recovery makes it: no binary log, and flushes once a second.
                target = Server(engine, *flags)
                servers.append(target)
                if part == "ours load":
                    cost = run([program, "load", str(ours), target.address], BENCH_PASSWORD=target.password)
                else:
                    cost = run(target.shell(f"gunzip < {gzip} | {' '.join(target.tool(engine.client))}"), MYSQL_PWD=target.password)
                table.note(what[part], cost)
                if rows_of(target) != wanted:
                    sys.exit(f"{part} lost rows")
                servers.pop().close()
        stored = stored_mb(ours / "repository")
        print(f"{engine.name}: stored ours {stored:.0f} MB, {engine.dumper} {stored_mb(gzip):.0f} MB", file=sys.stderr)
        table.row("dump", engine.name, what["ours dump"], what["mysqldump | gzip"], stored, 4.5, peak=200)
        table.row("load", engine.name, what["ours load"], what["gunzip | mysql"], stored, engine.load_goal, peak=200)
    finally:
        for server in servers:
            server.close()


if __name__ == "__main__":
    sys.exit(main())
