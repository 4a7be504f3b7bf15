"""Measures backups of a database and what brings them back, against what one would use otherwise: the runbook's
`mysqldump | gzip` and `gunzip | mysql`, mariadb-backup, tar, and mydumper with myloader where their paths are given.

TPC-H by tpchgen-cli and a wide table of mixed types, on real servers in containers. Runs alternate. Ours is encrypted for two
recipients, signed, and made durable before it ends; each load goes into a server that was just made, with the settings that a
recovery gives it, whoever loads.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from measure import Cost, Table, run, stored_mb
from server import ENGINES, Engine, Production, Server

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


def fill(server: Server, data: Path, scale: float) -> None:
    server.sql("CREATE DATABASE tpch; CREATE DATABASE mixed")
    for table, columns in TABLES.items():
        server.sql(f"CREATE TABLE {table} ({columns})", "tpch")
        load = f"LOAD DATA LOCAL INFILE '/dev/stdin' INTO TABLE {table} FIELDS TERMINATED BY '|'"
        server.sql(load, "tpch", data / f"{table}.tbl")
    server.sql("SET cte_max_recursion_depth = 10000;" + WIDE if server.engine.name == "mysql" else WIDE, "mixed")
    while int(server.sql("SELECT COUNT(*) FROM wide", "mixed")) < 60_000 * scale:
        server.sql(GROW, "mixed")
    # A hundredth of the data.
    server.sql(f"CREATE TABLE one LIKE wide; INSERT INTO one SELECT * FROM wide LIMIT {int(3500 * scale)}", "mixed")
    server.sql("ANALYZE TABLE tpch.lineitem, tpch.orders, mixed.wide")


def rows_of(server: Server) -> str:
    tables = [f"tpch.{table}" for table in TABLES] + ["mixed.wide", "mixed.one"]
    return server.sql("; ".join(f"SELECT COUNT(*) FROM {table}" for table in tables))


def shell(script: str) -> list[str]:
    return ["bash", "-o", "pipefail", "-c", script]


AnyServer = TypeVar("AnyServer", bound=Server)


@dataclass
class Bench:
    """One server full of data, and everything that is measured on it."""

    engine: Engine
    program: str
    cli: str
    work: Path
    table: Table
    mydumper: str | None
    myloader: str | None
    servers: list[Server] = field(default_factory=list)
    locks: list[float] = field(default_factory=list)
    has_rows: bool = False

    def open(self, data: Path, scale: float) -> None:
        self.work.mkdir()
        self.flags = subprocess.run([self.program, "flags", self.engine.name], check=True, capture_output=True, text=True).stdout.split()
        self.source = self.started(Production(self.engine, self.work / "production", self.cli))
        print(f"filling {self.engine.name}", file=sys.stderr)
        fill(self.source, data, scale)
        self.wanted = rows_of(self.source)
        self.ours, self.gzip, self.copy = self.work / "ours", self.work / "dump.sql.gz", self.work / "copy"
        self.packed = self.work / "copy.tar.zst"

    def started(self, server: AnyServer) -> AnyServer:
        self.servers.append(server)
        return server

    def target(self, load: Callable[[Server], Cost]) -> Cost:
        """Loads into a server as a recovery makes it, and counts what came."""
        server = self.started(Server(self.engine, *self.flags))
        cost = load(server)
        self.counted(server)
        return cost

    def counted(self, server: Server) -> None:
        if rows_of(server) != self.wanted:
            sys.exit("rows were lost")
        self.servers.remove(server)
        server.close()

    def note(self, what: str, cost: Cost) -> None:
        self.table.note(f"{self.engine.name}: {what}", cost)

    # What is measured, in the order of the runs.

    def dumps(self) -> None:
        shutil.rmtree(self.ours, ignore_errors=True)
        run([self.program, "init", str(self.ours)])
        told = self.work / "told"
        self.note("dump", run([self.program, "dump", str(self.ours), self.source.address], told, BENCH_PASSWORD=self.source.password))
        locked = re.search(r"for (\d+) µs", told.read_text())
        self.locks.append(int(locked[1]) / 1000 if locked else 1e9)
        options = ["--single-transaction", "--quick", "--routines", "--triggers", "--databases", "tpch", "mixed"]
        dump = " ".join(self.source.tool(self.engine.dumper, *options))
        self.note(f"{self.engine.dumper} | gzip", run(shell(f"{dump} | gzip > {self.gzip}"), MYSQL_PWD=self.source.password))
        if self.mydumper:
            folder = self.work / "mydumper"
            shutil.rmtree(folder, ignore_errors=True)
            options = ["--compress=zstd", "--threads=2", "--database=tpch,mixed", f"--outputdir={folder}"]
            self.note("mydumper", run([self.mydumper, *self.login(self.source), *options]))

    def loads(self) -> None:
        self.note("load", self.target(lambda to: run([self.program, "load", str(self.ours), to.address], BENCH_PASSWORD=to.password)))
        client = self.engine.client
        self.note(
            f"gunzip | {client}",
            self.target(lambda to: run(shell(f"gunzip < {self.gzip} | {' '.join(to.tool(client))}"), MYSQL_PWD=to.password)),
        )
        if self.myloader:
            folder = self.work / "mydumper"
            loader = self.myloader
            self.note("myloader", self.target(lambda to: run([loader, *self.login(to), f"--directory={folder}", "--threads=2"])))

    def old_dumps(self) -> None:
        old = self.target(lambda to: run([self.program, "old", to.address, str(self.gzip)], BENCH_PASSWORD=to.password))
        self.note("old dump", old)

    def copies(self) -> None:
        production = self.source
        self.note("physical backup", run(production.argv("backup", "create", "--kind", "physical"), BENCH_PASSWORD=production.password))
        if self.engine.name == "mariadb":
            backup = " ".join(production.tool("mariadb-backup", "--backup", "--stream=mbstream", "--target-dir=/var/tmp"))
            file = self.work / "copy.mbs.zst"
            self.note("mariadb-backup | zstd", run(shell(f"{backup} 2>/dev/null | zstd -q -f -o {file}"), MYSQL_PWD=production.password))
            file.unlink()

    def restores(self) -> None:
        """Data files back into a folder, and a server on them until it answers; the same bytes by tar, without a server."""
        shutil.rmtree(self.copy, ignore_errors=True)
        self.copy.mkdir()
        unpacked = run([self.program, "unpack", str(self.work / "production"), str(self.copy)])
        self.note("physical unpack", unpacked)
        if not self.packed.exists():
            run(shell(f"tar c -C {self.copy} . | zstd -q -T0 -o {self.packed}"))
        begun = time.monotonic()
        server = self.started(Server(self.engine, data=self.copy, password=self.source.password))
        self.note("physical restore", unpacked + Cost(time.monotonic() - begun, 0, 0))
        self.counted(server)
        again = self.work / "again"
        again.mkdir()
        self.note("zstd -dc | tar x", run(shell(f"zstd -dc {self.packed} | tar x -C {again}")))
        shutil.rmtree(again)

    def single(self) -> None:
        """A hundredth of the data, from the backup of everything, by the command that a person runs."""
        production = self.source
        if not self.has_rows:
            production.command("backup", "create")
            self.has_rows = True
        production.sql("DELETE FROM one", "mixed")
        restore = production.argv("restore", "--table", "mixed.one", "--yes")
        self.note("single table", run(restore, BENCH_PASSWORD=production.password))
        if rows_of(production) != self.wanted:
            sys.exit("rows of the single table were lost")

    def login(self, server: Server) -> list[str]:
        file = self.work / "login.cnf"
        file.touch(0o600)
        file.write_text(f"[client]\nhost={server.address}\nport=3306\nuser=root\npassword={server.password}\n")
        return [f"--defaults-extra-file={file}", f"--host={server.address}"]

    def rows(self) -> None:
        name, client, dumper = self.engine.name, self.engine.client, f"{self.engine.dumper} | gzip"
        stored, physical = stored_mb(self.ours / "repository"), stored_mb(self.packed)
        old = stored_mb(self.gzip)
        print(f"{name}: stored ours {stored:.0f} MB, {self.engine.dumper} {old:.0f} MB", file=sys.stderr)

        def row(work: str, ours: str, peer: str, stored: float, goal: float, lock: list[float] | None = None) -> None:
            if f"{name}: {ours}" in self.table.costs and f"{name}: {peer}" in self.table.costs:
                self.table.row(work, name, f"{name}: {ours}", f"{name}: {peer}", stored, goal, peak=200, lock=lock)

        row("dump", "dump", dumper, stored, 4.5, self.locks)
        row("dump", "dump", "mydumper", stored, 1)
        row("load", "load", f"gunzip | {client}", stored, self.engine.load_goal)
        row("load", "load", "myloader", stored, 1.2)
        row("old dump", "old dump", f"gunzip | {client}", old, 2.5)
        row("physical backup", "physical backup", dumper, physical, 0)
        row("physical backup", "physical backup", "mariadb-backup | zstd", physical, 0)
        row("physical restore", "physical restore", f"gunzip | {client}", physical, 15)
        row("physical unpack", "physical unpack", "zstd -dc | tar x", physical, round(1 / 1.5, 2))
        # A hundredth of the data in less than three hundredths of the time.
        row("single table", "single table", "load", stored, round(100 / 3, 1))

    def close(self) -> None:
        for server in self.servers:
            server.close()


PARTS = ("dump", "load", "old", "physical", "table")


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--cli", required=True, help="chom-recovery")
    parser.add_argument("--tpchgen", required=True, help="tpchgen-cli")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--scale", type=float, default=100, help="size of the data, in percent of TPC-H scale 1")
    parser.add_argument("--engine", action="append", choices=sorted(ENGINES), help="only this one")
    parser.add_argument("--part", action="append", choices=PARTS, help="only this one; a dump is always made")
    parser.add_argument("--mydumper", help="path of mydumper (MariaDB only)")
    parser.add_argument("--myloader", help="path of myloader (MariaDB only)")
    parser.add_argument("--folder", type=Path, default=None, help="where to work")
    arguments = parser.parse_args()
    # Servers do not outlive a run that is told to stop.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scale, parts = arguments.scale / 100, arguments.part or PARTS

    table = Table()
    with tempfile.TemporaryDirectory(prefix="bench-database-", dir=arguments.folder) as name:
        work = Path(name)
        print("making the data", file=sys.stderr)
        run([arguments.tpchgen, "--scale-factor", str(scale), "--output-dir", str(work / "tpch")])
        for engine in [ENGINES[name] for name in arguments.engine or ENGINES]:
            is_mariadb = engine.name == "mariadb"
            bench = Bench(
                engine,
                str(Path(arguments.program).resolve()),
                str(Path(arguments.cli).resolve()),
                work / engine.name,
                table,
                arguments.mydumper if is_mariadb else None,
                arguments.myloader if is_mariadb else None,
            )
            try:
                bench.open(work / "tpch", scale)
                for _ in range(arguments.runs):
                    bench.dumps()
                    if "load" in parts:
                        bench.loads()
                    if "old" in parts:
                        bench.old_dumps()
                    if "physical" in parts:
                        bench.copies()
                        bench.restores()
                    if "table" in parts:
                        bench.single()
                bench.rows()
            finally:
                bench.close()
            shutil.rmtree(work / engine.name)
    return table.finish()


if __name__ == "__main__":
    sys.exit(main())
