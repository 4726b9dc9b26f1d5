"""The application behind the app-db workloads: its tables, first rows and hourly changes, free of any database.

PostgreSQL (app_db.py) and SQLite (app_sqlite.py) play the same script. Rows are plain values; time is simulated.
Invariant: everything follows from (seed, scale); nothing here reads the clock.
"""

from datetime import datetime, timedelta, timezone

from words import Words

START = datetime(2026, 3, 2, 0, 0, 0, tzinfo=timezone.utc)

# name -> (columns, rows at scale 1, share of hourly touches); column types in the two databases' common words.
TABLES = {
    "users": [("id", "bigint primary key"), ("email", "text"), ("full_name", "text"), ("password_hash", "text"),
              ("about", "text"), ("created_at", "text"), ("last_login_at", "text"), ("login_count", "integer")],
    "orders": [("id", "bigint primary key"), ("user_id", "bigint"), ("status", "text"), ("total_cents", "bigint"),
               ("ship_to", "text"), ("note", "text"), ("created_at", "text"), ("updated_at", "text")],
    "order_lines": [("id", "bigint primary key"), ("order_id", "bigint"), ("sku", "text"), ("title", "text"),
                    ("quantity", "integer"), ("price_cents", "bigint")],
    "articles": [("id", "bigint primary key"), ("author_id", "bigint"), ("title", "text"), ("body", "text"),
                 ("views", "bigint"), ("updated_at", "text")],
    "events": [("id", "bigint primary key"), ("user_id", "bigint"), ("kind", "text"), ("payload", "text"),
               ("at", "text")],
    "sessions": [("id", "bigint primary key"), ("token", "text"), ("user_id", "bigint"), ("address", "text"),
                 ("agent", "text"), ("expires_at", "text")],
}
ROWS = {"users": 22000, "orders": 55000, "order_lines": 130000, "articles": 7000, "events": 60000, "sessions": 16000}
STATUS = ["new", "paid", "packed", "shipped", "delivered", "returned"]


class AppModel:
    """Live ids per table and a random stream; `initial` and `hour` produce rows and changes."""

    def __init__(self, seed=1, scale=1.0):
        self.words = Words(seed)
        self.rng = self.words.rng
        self.live = {table: [] for table in TABLES}
        self.next_id = {table: 1 for table in TABLES}
        self.counts = {table: max(10, int(n * scale)) for table, n in ROWS.items()}

    def _stamp(self, now, back_hours=0.0):
        at = now - timedelta(seconds=self.rng.random() * back_hours * 3600 + self.rng.random() * 3600)
        return at.strftime("%Y-%m-%d %H:%M:%S.") + "%06d+00" % self.rng.randrange(1000000)

    def _pick(self, table):
        rows = self.live[table]
        return rows[self.rng.randrange(len(rows))] if rows else 1

    def row(self, table, ident, now, age_hours):
        """One complete row of `table`."""
        w, r = self.words, self.rng
        stamp = lambda: self._stamp(now, age_hours)
        if table == "users":
            name = w.name()
            return (ident, "%s%d@%s.example" % (name.lower().replace(" ", "."), r.randrange(1000), w.words(1)[0]), name,
                    "$argon2id$v=19$" + w.hexes(24), w.prose(r.randint(3, 24)), stamp(), stamp(), r.randrange(900))
        if table == "orders":
            street = "%s street %d, %05d %s" % (w.words(1)[0], r.randrange(300), r.randrange(100000), w.words(1)[0])
            note = w.prose(r.randint(3, 20)) if r.random() < 0.45 else ""
            return (ident, self._pick("users"), r.choice(STATUS), r.randrange(500, 90000), street, note, stamp(), stamp())
        if table == "order_lines":
            return (ident, self._pick("orders"), "SKU-%07d" % r.randrange(10000000), " ".join(w.words(r.randint(2, 5))),
                    r.randint(1, 9), r.randrange(99, 30000))
        if table == "articles":
            return (ident, self._pick("users"), w.sentence(r.randint(3, 9)), w.prose(r.randint(60, 620)),
                    r.randrange(100000), stamp())
        if table == "events":
            payload = '{"request": "%s", "path": "/%s", "ms": %d, "bytes": %d}' % (
                w.hexes(8), "/".join(w.words(r.randint(1, 3))), r.randrange(4000), r.randrange(200000))
            return (ident, self._pick("users"), r.choice(["view", "view", "view", "click", "search", "buy"]), payload, stamp())
        address = "%d.%d.%d.%d" % tuple(r.randrange(1, 255) for _ in range(4))
        return (ident, w.hexes(20), self._pick("users"), address, "Browser/%d.%d (%s)" % (
            r.randrange(90, 140), r.randrange(10), w.words(1)[0]), stamp())

    def initial(self, table):
        """The rows of `table` before the first hour, in id order, one at a time."""
        for _ in range(self.counts[table]):
            ident = self.next_id[table]
            self.next_id[table] += 1
            row = self.row(table, ident, START, 24 * 400)
            self.live[table].append(ident)
            yield row

    def _delete(self, table):
        rows = self.live[table]
        if len(rows) < 10:
            return None
        at = self.rng.randrange(len(rows))
        rows[at], rows[-1] = rows[-1], rows[at]
        return rows.pop()

    def _update(self, table, now):
        """(id, {column: value}) with the columns that such an application really rewrites."""
        w, r, ident = self.words, self.rng, self._pick(table)
        now_text = self._stamp(now)
        if table == "users":
            return ident, {"last_login_at": now_text, "login_count": r.randrange(900)} if r.random() < 0.8 else {
                "about": w.prose(r.randint(3, 24))}
        if table == "orders":
            return ident, {"status": r.choice(STATUS), "updated_at": now_text}
        if table == "order_lines":
            return ident, {"quantity": r.randint(1, 9)}
        if table == "articles":
            return ident, {"views": r.randrange(100000)} if r.random() < 0.7 else {
                "body": w.prose(r.randint(60, 620)), "updated_at": now_text}
        if table == "events":
            return ident, {"kind": r.choice(["view", "click", "search", "buy"])}
        return ident, {"expires_at": now_text}

    def hour(self, number):
        """The changes of one hour: a list of ('update', table, id, columns), ('insert', table, row), ('delete', table, id).

        0.5 to 1 % of all rows are touched; they lie all over the heap.
        """
        now, r, out = START + timedelta(hours=number), self.rng, []
        for table in TABLES:
            rows = len(self.live[table])
            touches = max(3, int(rows * r.uniform(0.005, 0.0095)))
            for _ in range(touches):
                kind = r.random()
                if kind < 0.58:
                    ident, columns = self._update(table, now)
                    out.append(("update", table, ident, columns))
                elif kind < 0.82:
                    ident = self.next_id[table]
                    self.next_id[table] += 1
                    row = self.row(table, ident, now, 1)
                    self.live[table].append(ident)
                    out.append(("insert", table, row))
                else:
                    ident = self._delete(table)
                    if ident is not None:
                        out.append(("delete", table, ident))
        return out
