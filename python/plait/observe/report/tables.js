// Tables that can be sorted by each column and filtered by any of their texts.

const SHOWN = 50;

/** Where the time of a record went, as a small bar. */
function mix(record, wall) {
  const total = wall || STATES.reduce((sum, name) => sum + spent(record, name), 0);
  const shares = STATES.map((name, k) => [k, total ? spent(record, name) / total : 0]).filter(([, share]) => share > 0.002);
  if (!shares.length) return "";
  return make("div", { class: "mix", role: "img", "aria-label": shares.map(([k, share]) => `${words.states[k].title} ${percent(share)}`).join(", "), title: shares.map(([k, share]) => `${words.states[k].title} ${percent(share)}`).join("\n") },
    ...shares.map(([k, share]) => make("i", { style: { width: `${share * 100}%`, background: color(k) } })));
}

const kinds = {
  name: (value) => make("th", { scope: "row", class: "name", title: [].concat(value).map(plain).join("\n").slice(0, 600) }, make("code", {}, bdi([].concat(value)[0])), Array.isArray(value) && value[1] ? make("span", {}, bdi(value[1])) : null),
  text: (value) => make("td", { class: "text" }, bdi(value)),
  word: (value) => make("td", { class: "word" }, plain(value)),
  time: (value) => make("td", { class: value ? "n" : "n zero" }, seconds(value)),
  count: (value) => make("td", { class: value ? "n" : "n zero" }, whole(value)),
  number: (value) => make("td", { class: "n" }, value === null ? "\u2013" : String(value)),
  mix: (value) => make("td", {}, mix(...value)),
};

/**
 * A table in section `id`, which stays hidden if there is nothing to show.
 * Columns are [title, kind, value of a record, explanation]; the first sort is by the column `by`, worst first.
 */
function table(id, records, columns, by, caption) {
  const section = read(id);
  if (!records.length) return;
  section.hidden = false;
  let sorted = by, down = true, all = false, wanted = "";
  const sortable = (column) => column[1] !== "mix";
  const body = make("tbody");
  const more = make("button", { type: "button", onclick: () => { all = true; fill(); } });
  const note = make("p", { class: "more" }, more);
  const texts = records.map((record) => columns.filter(([, kind]) => ["name", "text", "word"].includes(kind)).map(([, , value]) => [].concat(value(record)).join(" ")).join(" ").toLowerCase());
  const heads = columns.map((column, i) => make("th", { scope: "col", class: ["time", "count", "number"].includes(column[1]) ? "n" : null }, sortable(column)
    ? make("button", { type: "button", title: column[3], onclick: () => { down = sorted === i ? !down : !["name", "text", "word"].includes(column[1]); sorted = i; fill(); } }, column[0])
    : make("button", { type: "button", disabled: true, title: column[3] }, column[0])));
  const key = (record) => [].concat(columns[sorted][2](record))[0] ?? -1;
  function fill() {
    heads.forEach((head, i) => (i === sorted ? head.setAttribute("aria-sort", down ? "descending" : "ascending") : head.removeAttribute("aria-sort")));
    const rows = records.filter((_, i) => texts[i].includes(wanted));
    const compare = (a, b) => { const x = key(a), y = key(b); return typeof x === "string" ? x.localeCompare(y) : x - y; };
    rows.sort((a, b) => (down ? -1 : 1) * compare(a, b));
    const shown = all ? rows : rows.slice(0, SHOWN);
    body.replaceChildren(...shown.map((record) => make("tr", {}, ...columns.map(([, kind, value]) => kinds[kind](value(record))))));
    if (!rows.length) body.append(make("tr", {}, make("td", { colspan: columns.length }, "Nothing like that.")));
    note.hidden = shown.length === rows.length;
    more.textContent = `Show all ${whole(rows.length)}`;
  }
  const title = section.querySelector("h2");
  const head = make("div", { class: "head" });
  title.replaceWith(head);
  head.append(title);
  if (records.length > 8) head.append(make("div", { class: "tools" }, make("input", { type: "search", placeholder: "Filter", "aria-label": `Filter ${title.textContent.toLowerCase()}`, oninput: (event) => { wanted = event.target.value.trim().toLowerCase(); fill(); } })));
  if (caption) section.append(make("p", { class: "lead" }, caption));
  section.append(make("div", { class: "table" }, make("table", { "aria-labelledby": `${id}-name` }, make("thead", {}, make("tr", {}, ...heads)), body)), note);
  fill();
}

/** Records with the same key as one, with the sums of their counts and times, and all of them. */
function together(records, key) {
  const found = new Map();
  for (const each of records) {
    const one = found.get(key(each));
    if (one) Object.assign(one, { count: one.count + each.count, time: one.time + each.time, all: [...one.all, each] });
    else found.set(key(each), { ...each, all: [each] });
  }
  return [...found.values()];
}

/** The names that most of the time is of. */
function worst(records, name) {
  const sums = together(records.map((each) => ({ name: name(each), count: 0, time: each.time })).filter((each) => each.name), (each) => each.name);
  sums.sort((one, other) => other.time - one.time);
  return sums.slice(0, 3).map((each) => each.name).join(", ") + (sums.length > 3 ? ` and ${sums.length - 3} more` : "");
}

/** What a lock is called: the line that wants it rather than an address. */
const lockName = (lock) => lock.replace(/^(?:[\w.]+ \()?0x[0-9a-f]+\)?, wanted by /, "lock at ");

/** The call of a wait and what it was for, as they are shown. */
function waitedFor(wait) {
  const call = wait.call || wait.kind || "not known";
  if (/^0x[0-9a-f]+$/.test(wait.target)) return wait.where ? { call: "lock", target: `at ${wait.where}` } : { call, target: "" };
  const named = lockName(wait.target);
  return named === wait.target ? { call, target: wait.target } : { call: "lock", target: named.slice(5) };
}

/** Who kept the GIL longest, and where. */
function longestHold() {
  const worst = profile.threads.reduce((most, each) => (!most || each.longest_gil_hold > most.longest_gil_hold ? each : most), null);
  if (!worst || !worst.longest_gil_hold) return "";
  const at = worst.longest_gil_hold_at;
  const why = worst.longest_gil_hold_for;
  const place = (of) => `${plain(of.function).slice(0, 80)}, ${shortPath(of.file)}:${of.line}`;
  return `The longest GIL hold was ${seconds(worst.longest_gil_hold)}, by ${plain(worst.name).slice(0, 80)}${at ? ` in ${place(at)}` : ""}${why ? `, called by ${place(why)}` : ""}.`;
}

function tables() {
  const { functions, threads, tasks, blocked, pools, deadlocks, processes, stop_the_world: pauses = { count: 0, askers: [], lengths: {} } } = profile;
  const several = new Set(threads.map((each) => each.pid)).size > 1;
  const ofGil = (...columns) => (words.gil ? columns : []);
  const time = (title, name, why) => [title, "time", (each) => each[name], why];
  table("functions", functions, [
    ["function", "name", (each) => [each.function, `${shortPath(each.file)}:${each.line}`, `${each.file}:${each.line}`]],
    time("own CPU", "self_cpu", "Time on a core in this function itself, with the GIL or without"),
    time("with callees", "total_cpu", "Time on a core in this function and in all that it calls"),
    ...ofGil(time("GIL wait caused", "caused_gil_wait", "How long other threads waited for the GIL while this function held it"), time("GIL wait", "gil_wait", "How long it waited for the GIL itself")),
    time("I/O wait", "io_wait"),
    time("lock wait", "lock_wait"),
    ...ofGil(time("longest hold", "longest_gil_hold", "The longest time that it held the GIL without giving others a chance")),
    ["verdict", "word", (each) => words.verdicts[each.verdict] ?? each.verdict],
    ["its time", "mix", (each) => [each, 0]],
  ], 1);
  table("threads", threads, [
    ["thread", "name", (each) => [each.name, `${each.tid || "ended"}${several ? ` of ${each.pid}` : ""}`]],
    time("wall", "wall", "From its first to its last instant in the profile"),
    ["its time", "mix", (each) => [each, each.wall]],
    ...ofGil(time("Python", "on_cpu_gil", "On a core with the GIL")),
    time(words.gil ? "released" : "running", "on_cpu_released", "On a core without the GIL"),
    time("ready", "ready", "Could run, no core was free"),
    ...ofGil(time("GIL wait", "gil_wait"), time("asleep", "gil_held_off_cpu", "Held the GIL and slept all the same")),
    time("I/O", "io_wait"),
    time("locks", "lock_wait"),
    ...(pauses.count ? [time("stood still", "stop_the_world", "Of its waits for locks: another thread had stopped all others, or it waited until they stood still"), ["stops", "count", (each) => each.stops, "How often it stood still"], time("longest stop", "longest_stop")] : []),
    time("idle", "idle"),
    ["switches", "count", (each) => each.switches_voluntary + each.switches_forced, "How often it gave up its core or lost it"],
    ["forced", "count", (each) => each.switches_forced],
    ...ofGil(time("longest hold", "longest_gil_hold", "The longest time that it held the GIL without giving others a chance")),
  ], 1, longestHold());
  table("tasks", tasks, [
    ["task", "name", (each) => [each.name, each.function]],
    time("wall", "wall"),
    time("running", "running"),
    time("ready", "ready", "Could run, but its loop was busy with something else"),
    time("awaiting", "awaiting"),
    ["awaits most", "text", (each) => each.awaits.slice(0, 3).map((one) => `${one.what}${one.place ? ` at ${shortPath(one.place)}` : ""}, ${seconds(one.time)}`).join("; ")],
    ["steps", "count", (each) => each.steps],
    time("longest step", "longest_step", "How long it kept the loop from everything else"),
  ], 2);
  table("blocked", blocked, [
    ["callback", "name", (each) => [each.callback || each.function || "not known", each.file ? `${shortPath(each.file)}:${each.line}` : "", `${each.file}:${each.line}`]],
    ["coroutine", "text", (each) => each.coroutine ?? ""],
    ["function", "text", (each) => each.function],
    ["in a library", "text", (each) => (each.library ? `${each.library.function} at ${shortPath(each.library.file)}:${each.library.line}` : "")],
    ["loop", "text", (each) => each.loop],
    time("from", "start"),
    time("blocked for", "time"),
  ], 4, "While one of these ran, no other task of its loop could.");
  const name = (thread) => [thread.name, String(thread.tid)];
  table("waits", threads.flatMap((thread) => together(thread.waits.map((wait) => ({ thread, ...wait, ...waitedFor(wait) })), (each) => `${each.kind}|${each.call}|${each.target}`)), [
    ["call", "name", (each) => each.call],
    ["file, peer or line", "text", (each) => each.target],
    ["kind", "text", (each) => each.kind],
    ["thread", "text", (each) => name(each.thread).join(" ")],
    ["waits", "count", (each) => each.count],
    ["mean", "time", (each) => (each.count ? each.time / each.count : 0)],
    time("time", "time"),
  ], 6);
  const locks = threads.flatMap((thread) => thread.locks.map((lock) => ({ thread, ...lock })));
  table("locks", together(locks, (each) => `${each.thread.pid}|${each.lock}`), [
    ["lock", "name", (each) => lockName(each.lock)],
    ["waiters", "text", (each) => worst(each.all, (one) => name(one.thread).join(" "))],
    ["holders", "text", (each) => worst(each.all, (one) => one.holder_name || (one.holder ? String(one.holder) : "not known"))],
    ["held at", "text", (each) => worst(each.all, (one) => one.where)],
    ["waits", "count", (each) => each.count],
    time("time", "time"),
  ], 5);
  table("deadlocks", deadlocks.flatMap((each, circle) => each.parties.map((party) => ({ circle: circle + 1, pid: each.pid, at: each.at, ...party }))), [
    ["thread", "name", (each) => [each.name || String(each.tid), `${each.tid}${several ? ` of ${each.pid}` : ""}`]],
    ["waits for", "text", (each) => each.lock],
    ["in", "text", (each) => each.where],
    ["which has", "text", (each) => each.holder_name || String(each.holder)],
    ["circle", "number", (each) => each.circle],
    time("found", "at"),
  ], 4, "Each of these threads waits for a lock that the next one has: none can go on.");
  table("pauses", pauses.askers, [
    ["asked for by", "name", (each) => [each.name || (each.tid ? String(each.tid) : "not known"), each.at ? `${each.at.function} ${shortPath(each.at.file)}:${each.at.line}` : "", each.at ? `${each.at.file}:${each.at.line}` : ""]],
    ["to", "text", (each) => (each.collects ? "collect garbage" : "")],
    ["pauses", "count", (each) => each.count],
    ["mean", "time", (each) => (each.count ? each.time / each.count : 0)],
    time("longest", "longest"),
    time("stood still", "stood", "How long other threads stood still, together"),
    time("time", "time", "From the asking until the others could go on"),
  ], 6, `Half of the pauses took up to ${seconds(pauses.lengths.p50)}, nine of ten up to ${seconds(pauses.lengths.p90)}, 99 of a hundred up to ${seconds(pauses.lengths.p99)}, the longest ${seconds(pauses.lengths.max)}.`);
  table("pools", pools, [
    ["function", "name", (each) => each.function],
    ["pool", "text", (each) => each.pool],
    ["tasks", "count", (each) => each.count],
    time("in the queue", "queue"),
    time("running", "run"),
    time("pickling", "pickling"),
    time("transfer", "transfer"),
  ], 4);
  table("processes", processes, [
    ["process", "name", (each) => [each.name, `${each.pid}, Python ${each.python}`]],
    ["parent", "number", (each) => each.parent],
    time("from", "start"),
    time("wall", "wall"),
    time("CPU", "cpu"),
    ...(processes.some((each) => each.stopped) ? [time("stopped", "stopped", "It stood still as a whole: it was stopped, or its machine was")] : []),
    ["faults", "count", (each) => each.faults_minor, "How often it touched a page of memory that it did not have, and that was at hand"],
    ["from disk", "count", (each) => each.faults_major, "The same, where the page had to be read from a disk"],
    ...["new", "ready", "running", "waiting", "terminated"].map((state) => [state, "time", (each) => each.states[state]]),
    ["exit code", "number", (each) => each.exit],
  ], 3);
}
