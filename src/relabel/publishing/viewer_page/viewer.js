/* Lists, the task that is open, and reviews by keyboard. Text from files only ever becomes text. */
(function () {
  "use strict";
  var SIZE = 50, about = null, rows = [], first = 0, total = 0, open = null, asked = 0;
  function id(name) { return document.getElementById(name); }
  function make(tag, text, name) {
    var made = document.createElement(tag);
    if (text !== undefined && text !== null) { made.textContent = text; }
    if (name) { made.className = name; }
    return made;
  }
  function say(text) { id("said").textContent = text; }
  function reviewing() { return document.querySelector("#mode :checked").value === "review"; }
  function blind() { return reviewing() && !id("show").checked; }
  function who() { return id("reviewer").value.trim(); }
  function get(path, fields) {
    return fetch("api/" + path + "?" + new URLSearchParams(fields || {})).then(read);
  }
  function read(reply) {
    return reply.json().then(function (found) { if (found.error) { throw new Error(found.error); } return found; });
  }
  function failed(error) { say(error.message === "Failed to fetch" ? "relabel view has stopped; start it again." : error.message); }
  function common() { return { reviewer: reviewing() ? who() : "", blind: blind() ? "1" : "0" }; }

  function list(start, then) {
    var fields = common(), mine = ++asked;
    ["q", "occupation", "label", "rater", "only", "sort"].forEach(function (name) { fields[name] = id(name).value; });
    fields.from = start;
    fields.size = SIZE;
    get("tasks", fields).then(function (found) {
      if (mine !== asked) { return; } /* a later question is under way */
      rows = found.rows; first = found.from; total = found.total;
      id("found").textContent = total ? (first + 1) + " to " + (first + rows.length) + " of " + total.toLocaleString("en-GB") + " tasks" : "No task fits.";
      id("back").disabled = first === 0;
      id("forth").disabled = first + rows.length >= total;
      id("tasks").replaceChildren.apply(id("tasks"), rows.map(item));
      if (then) { then(); }
    }).catch(failed);
  }
  function item(row, place) {
    var line = make("li"), button = make("button");
    button.type = "button";
    button.appendChild(make("span", (row.done ? "✓ " : "") + (row.text || "Task " + row.task)));
    button.appendChild(make("small", (row.title ? row.title + ", " : "") + row.code));
    Object.keys(row.labels || {}).forEach(function (name) {
      if (row.labels[name] !== null) { button.appendChild(make("span", name + ": " + row.labels[name], "tag")); }
    });
    if (row.disagree) { button.appendChild(make("span", "disagree", "tag warn")); }
    (row.flags || []).forEach(function (flag) { button.appendChild(make("span", flag, "tag warn")); });
    if (typeof row.probability === "number") { button.appendChild(make("span", "p " + row.probability.toFixed(2), "tag")); }
    if (open && same(open, row)) { button.setAttribute("aria-current", "true"); }
    button.addEventListener("click", function () { show(place); });
    line.appendChild(button);
    return line;
  }
  function same(one, other) { return one.code === other.code && one.task === other.task; }

  function show(place) {
    var row = rows[place];
    open = { code: row.code, task: row.task, place: place };
    all("#tasks button").forEach(function (button, at) {
      if (at === place) { button.setAttribute("aria-current", "true"); button.scrollIntoView({ block: "nearest" }); }
      else { button.removeAttribute("aria-current"); }
    });
    return refresh().then(function () {
      if (matchMedia("(max-width: 50rem)").matches) { id("one").scrollIntoView(); } /* there it stands below the list */
    });
  }
  function refresh() {
    if (!open) { return Promise.resolve(); }
    var fields = common();
    fields.code = open.code;
    fields.task = open.task;
    return get("task", fields).then(function (task) { if (same(open, task)) { draw(task); } }).catch(failed);
  }
  function all(selector) { return Array.prototype.slice.call(document.querySelectorAll(selector)); }
  function draw(task) {
    var page = id("one"), text = make("h2", task.text || "The text of this task is not on this machine; name its list with --tasks.");
    text.dir = "auto";
    page.replaceChildren(make("p", (task.title ? task.title + ", " : "") + task.code + ", task " + task.task, "soft"), text);
    if (reviewing()) { page.appendChild(form(task)); }
    if (!task.raters) { page.appendChild(make("p", "The raters’ labels are hidden while you review.", "soft")); return; }
    var golds = Object.keys(task.labels).filter(function (name) { return about.golds.indexOf(name) >= 0; });
    golds.forEach(function (name) { page.appendChild(make("p", "Gold " + name + ": " + (task.labels[name] || "no label"))); });
    var board = make("div", null, "raters");
    task.raters.forEach(function (rater) { board.appendChild(card(rater, task.labels[rater.name])); });
    page.appendChild(board);
  }
  function card(rater, label) {
    var box = make("article", null, "rater");
    box.appendChild(make("h3", rater.name + ": " + (label || "no label")));
    rater.answers.forEach(function (answer) {
      var head = make("p"), flags = [];
      head.appendChild(make("b", answer.setting + (answer.sample ? ", repeat " + (answer.sample + 1) : "") + ": " + answer.label));
      if (answer.probability !== null) { flags.push("probability " + answer.probability.toFixed(2)); }
      if (answer.repaired) { flags.push("repaired"); }
      if (answer.attempts > 1) { flags.push(answer.attempts + " attempts"); }
      if (answer.model_returned) { flags.push(answer.model_returned); }
      box.appendChild(head);
      if (flags.length) { box.appendChild(make("p", flags.join(", "), "soft")); }
      if (answer.rationale) { var why = make("p", answer.rationale); why.dir = "auto"; box.appendChild(why); }
      raw(box, answer);
    });
    rater.failures.forEach(function (failure) {
      box.appendChild(make("p", failure.setting + ": no label (" + failure.kind + ")", "tag warn"));
      box.appendChild(make("p", failure.message));
      raw(box, failure);
    });
    if (!rater.answers.length && !rater.failures.length) { box.appendChild(make("p", "This rater did not label the task.", "soft")); }
    return box;
  }
  function raw(box, answer) {
    if (!answer.messages) { box.appendChild(make("p", "The question and the raw answer are not in the store of this machine.", "soft")); return; }
    fold(box, "Question", answer.messages.map(function (m) { return m.role + ":\n" + (typeof m.content === "string" ? m.content : JSON.stringify(m.content, null, 1)); }).join("\n\n"));
    if (answer.content !== null) { fold(box, "Raw answer", answer.content); }
    answer.rejected.forEach(function (one) { fold(box, "Rejected answer", one.reason + "\n\n" + one.content); });
  }
  function fold(box, name, text) {
    var details = make("details");
    details.appendChild(make("summary", name));
    details.appendChild(make("pre", text));
    box.appendChild(details);
  }

  function form(task) {
    var box = make("div"), choices = make("div", null, "choices"), note = make("label", "Note");
    about.choices.forEach(function (label, place) {
      var button = make("button", label + " ");
      button.type = "button";
      button.setAttribute("aria-pressed", String(!!task.review && task.review.label === label));
      button.appendChild(make("kbd", key(place)));
      button.addEventListener("click", function () { review(label); });
      choices.appendChild(button);
    });
    var area = make("textarea");
    area.id = "note";
    area.maxLength = 2000;
    area.value = task.review ? task.review.comment : "";
    area.addEventListener("change", function () { if (task.review) { review(task.review.label, true); } });
    note.appendChild(area);
    box.appendChild(choices);
    box.appendChild(note);
    return box;
  }
  function key(place) { return about.choices[0] === "exposed" ? ["e", "x"][place] : String(place); }
  function post(fields) {
    return fetch("api/review", { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(fields) }).then(read);
  }
  function review(label, stay) {
    if (!open || !reviewing()) { return; }
    if (!who()) { say("Enter your name first."); id("reviewer").focus(); return; }
    var note = id("note"), place = open.place;
    post({ code: open.code, task: open.task, label: label, comment: note ? note.value : "", reviewer: who(), blind: blind() }).then(function () {
      say("Saved: " + label + ".");
      rows[place].done = true;
      id("tasks").children[place].replaceWith(item(rows[place], place));
      (stay ? refresh() : move(1)).then(progress);
    }).catch(failed);
  }
  function undo() {
    if (!who()) { return; }
    post({ undo: true, reviewer: who() }).then(function (found) {
      if (!found.undone) { say("Nothing to undo."); return; }
      say("Taken back.");
      list(first, function () {
        var place = rows.findIndex(function (row) { return same(row, found.undone); });
        (place >= 0 ? show(place) : refresh()).then(progress);
      });
    }).catch(failed);
  }
  function progress() {
    if (!reviewing()) { return; }
    get("progress").then(function (found) {
      var of = about.listed || about.tasks;
      var said = Object.keys(found.done).map(function (name) { return name + " " + found.done[name] + " of " + of.toLocaleString("en-GB"); });
      found.agreement.forEach(function (pair) {
        said.push(pair.who.join(" and ") + " agree on " + Math.round(100 * pair.agreement) + "% of " + pair.tasks + " tasks" + (pair.kappa === null ? "" : " (kappa " + pair.kappa.toFixed(2) + ")"));
      });
      id("progress").textContent = said.join("; ");
    }).catch(failed);
  }
  function move(step) {
    var to = (open ? open.place : -1) + step;
    if (to >= 0 && to < rows.length) { return show(to); }
    if (to >= rows.length && first + rows.length < total) { list(first + SIZE, function () { show(0); }); }
    else if (to < 0 && first > 0) { list(Math.max(first - SIZE, 0), function () { show(rows.length - 1); }); }
    return refresh();
  }
  function restart() {
    document.body.className = (reviewing() ? "review " : "") + (blind() ? "blind" : "");
    id("who").hidden = !reviewing();
    open = null;
    id("one").replaceChildren(make("p", "Choose a task.", "soft"));
    progress();
    list(0);
  }

  document.addEventListener("keydown", function (event) {
    var typing = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) && event.target.type !== "radio" && event.target.type !== "checkbox";
    if (typing && (event.key === "Escape" || (event.key === "Enter" && event.target.tagName === "INPUT"))) { event.target.blur(); }
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !about) { return; }
    var label = about.choices.filter(function (_, place) { return key(place) === event.key; })[0];
    if (event.key === "j") { move(1); }
    else if (event.key === "k") { move(-1); }
    else if (event.key === "/") { id("q").focus(); }
    else if (reviewing() && event.key === "u") { undo(); }
    else if (reviewing() && event.key === "n" && id("note")) { id("note").focus(); }
    else if (reviewing() && label) { review(label); }
    else { return; }
    event.preventDefault();
  });
  all("form").forEach(function (form) { form.addEventListener("submit", function (event) { event.preventDefault(); }); });
  all("#filters select, #mode input, #show").forEach(function (field) { field.addEventListener("change", restart); });
  id("reviewer").addEventListener("change", restart);
  var wait = 0;
  ["q", "occupation"].forEach(function (name) {
    id(name).addEventListener("input", function () { clearTimeout(wait); wait = setTimeout(restart, 150); });
  });
  id("back").addEventListener("click", function () { list(Math.max(first - SIZE, 0)); });
  id("forth").addEventListener("click", function () { list(first + SIZE); });

  get("about").then(function (found) {
    about = found;
    id("about").textContent = found.tasks.toLocaleString("en-GB") + " tasks, " + found.raters.concat(found.golds).join(", ") + ". Reviews go to " + found.file + ".";
    found.choices.forEach(function (label) { id("label").appendChild(make("option", label)); });
    found.raters.forEach(function (name) { id("rater").appendChild(make("option", name)); });
    all(".filed").forEach(function (option) { if (!found.listed) { option.remove(); } });
    id("keys").replaceChildren.apply(id("keys"), found.choices.map(function (label, place) {
      var said = make("span", (place ? ", " : ""));
      said.appendChild(make("kbd", key(place)));
      said.appendChild(document.createTextNode(" " + label));
      return said;
    }));
    restart();
  }).catch(failed);
})();
