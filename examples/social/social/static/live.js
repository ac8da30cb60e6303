// Draws the footer's lags and, on the replication page, each change's way. No library, nothing from elsewhere.
"use strict";

const bytes = (n) => n === null || n === undefined ? "?" : n < 1024 ? `${n} B` : n < 1048576 ? `${(n / 1024).toFixed(1)} kB` : `${(n / 1048576).toFixed(1)} MB`;
const millis = (seconds) => seconds >= 1 ? `${seconds.toFixed(1)} s` : `${(seconds * 1000).toFixed(1)} ms`;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function drawLags(place, copies) {
  place.replaceChildren(...copies.map((copy) => {
    const lag = element("span", "lag");
    lag.append(element("i", `dot ${copy.state}`), element("b", "", copy.name));
    const behind = copy.state === "streaming" && copy.bytes === 0 ? "in step" : copy.state === "streaming" ? `${bytes(copy.bytes)} behind` : copy.bytes ? `${copy.state}, ${bytes(copy.bytes)} behind` : copy.state;
    lag.append(` ${behind}`);
    if (copy.latency) lag.append(element("small", "", ` p50 ${millis(copy.latency)}`));
    return lag;
  }));
}

function drawStores(copies) {
  for (const copy of copies) {
    const card = document.querySelector(`[data-store="${CSS.escape(copy.name)}"]`);
    if (!card) continue;
    const state = card.querySelector("[data-state]");
    state.textContent = copy.state;
    state.className = `state ${copy.state}`;
    card.dataset.is = copy.state;
    card.querySelector("[data-bytes]").textContent = bytes(copy.bytes);
  }
}

function said(change) {
  const rows = Object.entries(change.changes).map(([table, ops]) =>
    Object.entries(ops).map(([op, count]) => `${count} ${op}${count > 1 ? "s" : ""}`).join(", ") + ` in ${table.replace("public.", "")}`);
  return rows.join("; ") || "nothing that is kept";
}

const after = (change, at) => `+${millis(Math.max(0, at - change.committed))}`;

function cell(change, at, taken) {
  if (!at || !change.committed) return element("td", "waiting", "waits");
  const td = element("td", "", after(change, at));
  if (taken) td.append(element("br"), element("span", "meta", `batch ${after(change, taken)}`));
  return td;
}

function drawWay(table, changes) {
  const rows = changes.map((change) => {
    const row = element("tr");
    const what = element("td");
    what.append(element("b", "", change.deeds.join("; ") || "by somebody else's SQL"), element("br"),
      element("span", "meta", `${said(change)} · ${change.transactions} transaction${change.transactions > 1 ? "s" : ""} · ${change.lsn}`));
    const when = new Date(change.committed * 1000);
    row.append(what, element("td", "meta", `${when.toLocaleTimeString([], { hour12: false })}.${String(when.getMilliseconds()).padStart(3, "0")}`), cell(change, change.received));
    for (const name of ["graph", "search"]) {
      const step = change.stores[name];
      row.append(cell(change, step && step.durable, step && step.taken));
    }
    return row;
  });
  if (!rows.length) {
    const row = element("tr"), td = element("td", "meta", "Nothing has come since the pipeline began. Write something.");
    td.colSpan = 5;
    row.append(td);
    rows.push(row);
  }
  table.tBodies[0].replaceChildren(...rows);
}

async function live() {
  const place = document.querySelector("[data-lags]");
  const way = document.querySelector("[data-way]");
  for (;;) {
    try {
      if (!document.hidden) {
        const answer = await fetch(way ? way.dataset.way : place.dataset.lags, { headers: { Accept: "application/json" } });
        if (!answer.ok) throw new Error(answer.statusText);
        const found = await answer.json();
        drawLags(place, found.copies);
        if (way) {
          drawStores(found.copies);
          drawWay(way, found.changes);
        }
      }
    } catch {
      place.textContent = "nobody knows how far the copies are";
    }
    await new Promise((done) => setTimeout(done, 1000));
  }
}

live();
