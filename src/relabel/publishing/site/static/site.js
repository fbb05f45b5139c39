/* Search, sorting, the switch between readings, keyboard in the charts, the comparison. Every page works without it. */
(function () {
  "use strict";
  var doc = document;
  function all(selector, within) { return Array.prototype.slice.call((within || doc).querySelectorAll(selector)); }
  function kept(value) {
    try {
      if (value) { localStorage.setItem("reading", value); }
      return localStorage.getItem("reading");
    } catch (error) { return null; } /* a browser may refuse storage */
  }

  /* Keep the chosen reading on the next page. */
  var radios = all('input[name="reading"]');
  radios.forEach(function (radio) {
    if (radio.value === kept()) { radio.checked = true; }
    radio.addEventListener("change", function () { kept(radio.value); });
  });

  /* Sorting: each head of a column becomes a button. */
  all("table[data-sortable]").forEach(function (table) {
    var body = table.tBodies[0];
    all("thead th", table).forEach(function (head) {
      var button = doc.createElement("button");
      button.type = "button";
      while (head.firstChild) { button.appendChild(head.firstChild); }
      head.appendChild(button);
      button.addEventListener("click", function () {
        var text = head.getAttribute("data-type") === "text";
        var up = head.getAttribute("aria-sort") ? head.getAttribute("aria-sort") === "descending" : text;
        var place = head.cellIndex;
        all("th[aria-sort]", table).forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", up ? "ascending" : "descending");
        var keyed = all("tr", body).map(function (row) {
          var cell = row.cells[place];
          var value = text ? cell.textContent.trim().toLowerCase() : parseFloat(cell.getAttribute("data-v"));
          return { row: row, value: value, none: !text && isNaN(value), last: text ? 0 : parseInt(cell.getAttribute("data-last"), 10) || 0 };
        });
        keyed.sort(function (one, two) {
          if (one.none || two.none) { return one.none - two.none; } /* rows without a figure stay last */
          /* Rows with a mark above 0 are not ranked with the others: they follow them, larger marks first. */
          if (one.last !== two.last) { return !one.last ? -1 : !two.last ? 1 : two.last - one.last; }
          var order = text ? one.value.localeCompare(two.value) : one.value - two.value;
          return up ? order : -order;
        });
        keyed.forEach(function (entry) { body.appendChild(entry.row); });
      });
    });
  });

  /* Search: all words must occur, in any order. */
  all("input[data-search]").forEach(function (input) {
    var table = doc.getElementById(input.getAttribute("data-search"));
    var said = doc.getElementById("found");
    var group = doc.querySelector('[data-group="' + input.id + '"]'), short = (input.getAttribute("data-short") || "").split(" ");
    input.closest(".search").hidden = false;
    if (group) { group.closest(".search").hidden = false; group.addEventListener("change", search); }
    /* Abbreviations match whole words only; other words also match parts of words, and in the plural. */
    function has(text, word) {
      if (short.indexOf(word) >= 0) { return (" " + text + " ").indexOf(" " + word + " ") >= 0; }
      return text.indexOf(word) >= 0 || forms(word).some(function (form) { return text.indexOf(form) >= 0; });
    }
    function forms(word) {
      if (word.length < 4) { return []; }
      if (/men$/.test(word)) { return [word.replace(/men$/, "man"), word.replace(/men$/, "person")]; }
      if (/ies$/.test(word)) { return [word.replace(/ies$/, "y")]; }
      if (/(ss|x|ch|sh|[^aou]us)es$/.test(word)) { return [word.slice(0, -2)]; }
      return /s$/.test(word) ? [word.slice(0, -1)] : /y$/.test(word) ? [word.slice(0, -1) + "ies"] : [];
    }
    function search() {
      var words = input.value.toLowerCase().split(/[\s,;:()]+/).filter(Boolean);
      var wanted = group ? group.value : "";
      var found = 0;
      all("tbody tr", table).forEach(function (row) {
        var text = row.getAttribute("data-k");
        row.hidden = (wanted && row.getAttribute("data-g") !== wanted) || !words.every(function (word) { return has(text, word); });
        found += row.hidden ? 0 : 1;
      });
      table.closest(".scroll").hidden = !found;
      if (!words.length && !wanted) { said.textContent = ""; }
      else if (found) { said.textContent = found + (found === 1 ? " row found" : " rows found"); }
      else { said.textContent = "Nothing found; try " + (words.length > 1 ? "fewer words." : "another word, or its first letters."); }
    }
    input.addEventListener("input", search);
    if (input.value || (group && group.value)) { search(); } /* a browser may restore what was typed */
  });

  /* Charts: one stop for Tab, arrow keys between marks, a line that says what is under the pointer or the focus. */
  var tip = doc.getElementById("tip");
  function middle(mark) {
    var box = mark.getBoundingClientRect();
    return { x: box.left + box.width / 2, y: box.top + box.height / 2 };
  }
  var steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  function nearest(marks, from, step) {
    var at = middle(from), best = null, least = Infinity;
    marks.forEach(function (mark) {
      if (mark === from) { return; }
      var to = middle(mark);
      var along = (to.x - at.x) * step[0] + (to.y - at.y) * step[1];
      var across = Math.abs((to.x - at.x) * step[1]) + Math.abs((to.y - at.y) * step[0]);
      if (along > 0.5 && along + 2 * across < least) { least = along + 2 * across; best = mark; }
    });
    return best;
  }
  all("[data-map], [data-plot]").forEach(function (chart) {
    var marks = all("a", chart);
    var line = chart.hasAttribute("data-plot");
    function show(event) {
      var mark = event.target.closest("a");
      if (mark) { tip.textContent = mark.getAttribute("aria-label"); }
    }
    marks.forEach(function (mark, place) { mark.setAttribute("tabindex", place ? "-1" : "0"); });
    chart.addEventListener("pointerover", show);
    chart.addEventListener("focusin", show);
    chart.addEventListener("keydown", function (event) {
      var here = event.target.closest("a"), place = marks.indexOf(here), next = null;
      if (place < 0) { return; }
      if (event.key === "Home") { next = marks[0]; }
      else if (event.key === "End") { next = marks[marks.length - 1]; }
      else if (!steps[event.key]) { return; }
      /* In the scatter the marks lie in order of pay; left and right walk through all of them. */
      else if (line && steps[event.key][0]) { next = marks[place + steps[event.key][0]]; }
      else { next = nearest(marks, here, steps[event.key]); }
      event.preventDefault();
      if (next) {
        here.setAttribute("tabindex", "-1");
        next.setAttribute("tabindex", "0");
        next.focus();
      }
    });
  });

  /* The comparison. */
  var form = doc.querySelector("[data-compare]");
  if (form) {
    var data = JSON.parse(doc.getElementById("rows").textContent);
    var table = doc.getElementById("compared");
    var asked = new URLSearchParams(location.search);
    var sides = all("select", form);
    var pounds = function (value) {
      if (value === null) { return "–"; }
      if (value >= 999500000) { return "£" + (value / 1e9).toFixed(value < 99995000000 ? 2 : 1) + "bn"; }
      return value >= 999500 ? "£" + Math.round(value / 1e6) + "m" : "£" + Math.round(value).toLocaleString("en-GB");
    };
    var lines = [];
    [["strict", "strict_10"], ["with_tools", "with_tools_10"]].forEach(function (reading) {
      var name = data.names[reading[0]];
      function line(label, value) {
        lines.push([name + ": " + label, function (row) { return row[reading[0]] ? value(row[reading[0]], row) : "–"; }]);
      }
      line("score", function (said, row) {
        return row[reading[1]].toFixed(1) + " of 10" + (row.thin ? ", thin" : "");
      });
      function range(of) { return of.low.toFixed(1) + " to " + of.high.toFixed(1); }
      if (data.brief.own) {
        line(data.brief.own, function (said) { return said.low === null ? "–" : range(said); });
      }
      if (data.brief.other) {
        line(data.brief.other, function (said) {
          return said.other === null ? "–" : "about " + said.other.mid.toFixed(1) + " (" + range(said.other) + ")";
        });
      }
      line("band", function (said) { return said.band === null ? "–" : said.band; });
      line("percentile", function (said) { return said.percentile === null ? "–" : String(said.percentile); });
      if (data.money) { line("wage exposure", function (said) { return pounds(said.wage); }); }
    });
    if (data.money) {
      lines.push(["Employee jobs", function (row) { return row.jobs === null ? "–" : row.jobs.toLocaleString("en-GB"); }]);
      lines.push(["Median pay a year", function (row) { return pounds(row.pay); }]);
    }
    var compare = function () {
      var chosen = sides.map(function (side) {
        return data.rows.filter(function (row) { return row.code === side.value; })[0];
      });
      chosen.forEach(function (row, place) {
        var link = doc.createElement("a");
        link.href = "occupations/" + row.code + ".html";
        link.textContent = row.title;
        table.tHead.rows[0].cells[place + 1].replaceChildren(link);
      });
      table.tBodies[0].replaceChildren.apply(table.tBodies[0], lines.map(function (line) {
        var row = doc.createElement("tr");
        var head = doc.createElement("th");
        head.scope = "row";
        head.textContent = line[0];
        row.appendChild(head);
        chosen.forEach(function (one) { row.insertCell().textContent = line[1](one); });
        return row;
      }));
    };
    sides.forEach(function (side, place) {
      var wanted = asked.get(side.name);
      side.selectedIndex = Math.min(place, data.rows.length - 1);
      if (data.rows.some(function (row) { return row.code === wanted; })) { side.value = wanted; }
      side.addEventListener("change", compare);
    });
    form.hidden = table.hidden = false;
    form.addEventListener("submit", function (event) { event.preventDefault(); });
    compare();
  }

  document.querySelectorAll("[data-copy]").forEach(function (button) {
    if (!navigator.clipboard) { return; }
    button.hidden = false;
    button.addEventListener("click", function () {
      navigator.clipboard.writeText(button.previousElementSibling.textContent).then(function () { button.textContent = "Copied"; });
    });
  });
})();
