// The report's charts, differences and samples, out of the data that stands in the page. Texts are set as text, never as
// HTML; nothing is asked for over a network.
(() => {
  "use strict";

  const data = JSON.parse(document.getElementById("data").textContent);
  const UNITS_PER_NAT = 100;
  const PAGE = 25;
  const isDark = matchMedia("(prefers-color-scheme: dark)");

  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name === "class") element.className = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  };
  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const curveColour = (place) => colour(`--c${place % 8}`);
  const signed = (value, digits) => {
    const text = Math.abs(value).toFixed(digits);
    return Number(text) === 0 ? `±${text}` : (value < 0 ? "−" : "+") + text;
  };
  const short = (value) => (value == null ? "–" : Math.abs(value) >= 1e5 ? value.toExponential(1) : String(+value.toPrecision(4)));

  // ---- charts

  const drawn = [];
  const draw = (place, build) => {
    const target = place.querySelector(".plot");
    const entry = { target, build, plot: null };
    const paint = () => {
      if (entry.plot) entry.plot.destroy();
      const width = Math.floor(target.clientWidth);
      entry.plot = width > 0 ? build(target, width) : null;
      entry.width = width;
    };
    entry.paint = paint;
    drawn.push(entry);
    return entry;
  };
  // Charts are drawn when they come into view: a page of many runs opens at once.
  const observer = new IntersectionObserver((seen) => {
    for (const one of seen) {
      const entry = drawn.find((found) => found.target === one.target);
      if (one.isIntersecting && entry && !entry.plot) entry.paint();
    }
  }, { rootMargin: "400px" });
  const repaint = () => drawn.forEach((entry) => { if (entry.plot) entry.paint(); });
  isDark.addEventListener("change", repaint);
  let waiting = 0;
  addEventListener("resize", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => drawn.forEach((entry) => {
      const width = Math.floor(entry.target.clientWidth);
      if (entry.plot && width !== entry.width) { entry.width = width; entry.plot.setSize({ width, height: entry.plot.height }); }
    }), 100);
  });
  addEventListener("beforeprint", () => drawn.forEach((entry) => { if (!entry.plot) entry.paint(); }));

  const axis = (label) => ({
    stroke: colour("--soft"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line"), width: 1 },
    font: "12px system-ui, sans-serif",
    labelFont: "12px system-ui, sans-serif",
    ...(label ? { label, labelSize: 16, labelGap: 0, size: 30 } : {}),
  });

  const verticals = (marks) => (plot) => {
    const { ctx, bbox } = plot;
    let wordsEnd = bbox.left;
    for (const mark of marks) {
      if (mark.at < plot.scales.x.min || mark.at > plot.scales.x.max) continue;
      const x = Math.round(plot.valToPos(mark.at, "x", true));
      ctx.save();
      ctx.strokeStyle = mark.said ? colour("--bad") : colour("--soft");
      ctx.lineWidth = mark.said ? 2 * devicePixelRatio : devicePixelRatio;
      if (!mark.said) { ctx.globalAlpha = 0.6; ctx.setLineDash([4, 4]); }
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
      if (mark.said) {
        ctx.fillStyle = colour("--bad");
        ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
        ctx.textAlign = "right";
        const right = x - 4 * devicePixelRatio;
        if (right - ctx.measureText(mark.said).width > wordsEnd) {  // where there is room for it
          ctx.fillText(mark.said, right, bbox.top + 12 * devicePixelRatio);
          wordsEnd = right;
        }
      }
      ctx.restore();
    }
  };

  const roundEnds = (run, columns) => {
    const ends = new Map();
    columns.round.forEach((number, place) => ends.set(number, columns.step[place]));
    return [...ends].map(([number, at]) => ({
      at,
      said: run.alerts.filter((alert) => alert.round === number).map((alert) => alert.guard).join(", "),
    }));
  };

  // A source has its colour in every chart; a second figure of the same source is dashed.
  const sourceOf = (name) => (name.includes("/") ? name.slice(0, name.lastIndexOf("/")) : "");
  const styleOf = (columns, names, place) => {
    const sources = [...new Set(["", ...Object.keys(columns).map(sourceOf).sort()])], source = sourceOf(names[place]);
    const isSecond = names.slice(0, place).some((name) => sourceOf(name) === source);
    return { stroke: curveColour(sources.indexOf(source)), ...(isSecond ? { dash: [6, 4] } : {}) };
  };

  const curves = (run, chart) => (target, width) => {
    const columns = run.training.columns[chart.columns];
    const isSparse = (name) => columns[name].filter((value) => value != null).length * 2 < columns[name].length;
    return new uPlot({
      width,
      height: 240,
      scales: { x: { time: false } },
      axes: [axis("step"), { ...axis(), size: 58, values: (_, ticks) => ticks.map(short) }],
      cursor: { y: false },
      series: [
        { label: "step" },
        ...chart.names.map((name, place) => ({
          label: name,
          ...styleOf(columns, chart.names, place),
          width: 1.5,
          spanGaps: true,
          points: { show: isSparse(name) || columns.step.length < 3, size: 6 },
          value: (_, value) => short(value),
        })),
      ],
      hooks: { drawClear: [verticals(chart.columns === "rounds" ? roundEnds(run, columns) : [])] },
    }, [columns.step, ...chart.names.map((name) => columns[name])], target);
  };

  const padded = (values) => {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = (high - low || Math.abs(high) || 1) * 0.12;
    return [low - room, high + room];
  };

  // Of each round its KL and its reward, or where there is no reward its win rate against the initial policy.
  const frontierOf = (runs) => {
    const hasReward = runs.some((run) => run.rounds.some((one) => one.reward));
    const points = runs.map((run) => run.rounds.flatMap((one) => {
      const wins = one.against.initial;
      const y = hasReward ? one.reward && [one.reward.mean, 1.96 * one.reward.standard_error, 1.96 * one.reward.standard_error]
        : wins ? [wins.win_rate, wins.win_rate - wins.low, wins.high - wins.win_rate] : one.round === 0 ? [0.5, 0, 0] : null;
      return y ? [{ round: one.round, x: one.kl.mean, xe: 1.96 * one.kl.standard_error, y: y[0], low: y[1], high: y[2], chosen: run.chosen.round === one.round }] : [];
    }));
    return { title: hasReward ? "reward" : "win rate vs initial", points };
  };

  const frontier = (runs) => {
    const found = frontierOf(runs);
    if (!found.points.some((points) => points.length)) return null;
    return (target, width) => {
      const all = found.points.flat();
      const xs = [...new Set(all.map((one) => one.x))].sort((a, b) => a - b);
      const [xmin, xmax] = padded(all.flatMap((one) => [one.x - one.xe, one.x + one.xe]));
      const [ymin, ymax] = padded(all.flatMap((one) => [one.y - one.low, one.y + one.high]));
      const paint = (plot) => found.points.forEach((points, place) => {
        const { ctx } = plot, ratio = devicePixelRatio, at = (x, y) => [plot.valToPos(x, "x", true), plot.valToPos(y, "y", true)];
        ctx.save();
        ctx.strokeStyle = ctx.fillStyle = curveColour(place);
        ctx.lineWidth = ratio;
        ctx.globalAlpha = 0.45;
        ctx.beginPath();
        points.forEach((one, step) => ctx[step ? "lineTo" : "moveTo"](...at(one.x, one.y)));
        for (const one of points) {
          ctx.moveTo(...at(one.x - one.xe, one.y)); ctx.lineTo(...at(one.x + one.xe, one.y));
          ctx.moveTo(...at(one.x, one.y - one.low)); ctx.lineTo(...at(one.x, one.y + one.high));
        }
        ctx.stroke();
        ctx.globalAlpha = 1;
        const isCrowded = points.length > 40;
        const order = points.map((_, step) => step).sort((a, b) => points[a].chosen - points[b].chosen);  // the chosen one on top
        order.forEach((step) => {
          const one = points[step], [x, y] = at(one.x, one.y);
          const isNumbered = !isCrowded || one.chosen || step === 0 || step === points.length - 1 || step % 10 === 0;
          const radius = (isNumbered ? 10 : 3) * ratio;
          ctx.beginPath();
          ctx.arc(x, y, radius, 0, 2 * Math.PI);
          ctx.fillStyle = curveColour(place);
          ctx.fill();
          if (one.chosen) {
            ctx.beginPath();
            ctx.arc(x, y, radius + 4 * ratio, 0, 2 * Math.PI);
            ctx.lineWidth = 2.5 * ratio;
            ctx.stroke();
          }
          if (isNumbered) {
            ctx.fillStyle = colour("--card");
            ctx.font = `600 ${11 * ratio}px system-ui, sans-serif`;
            ctx.textAlign = "center";
            ctx.textBaseline = "middle";
            ctx.fillText(String(one.round), x, y + 0.5 * ratio);
          }
        });
        ctx.restore();
      });
      return new uPlot({
        width,
        height: 340,
        scales: { x: { time: false, range: [xmin, xmax] }, y: { range: [ymin, ymax] } },
        axes: [axis("KL to the reference, nats a response"), { ...axis(found.title), size: 50, values: (_, ticks) => ticks.map(short) }],
        cursor: { show: false },
        legend: { show: runs.length > 1, live: false },
        series: [{ label: "KL" }, ...runs.map((run, place) => ({ label: run.path, stroke: curveColour(place), paths: () => null, points: { show: false } }))],
        hooks: { draw: [paint] },
      }, [xs, ...found.points.map((points) => xs.map((x) => { const one = points.find((point) => point.x === x); return one ? one.y : null; }))], target);
    };
  };

  // ---- differences from a baseline round

  const differences = (article) => {
    const table = article.querySelector("table.rounds");
    if (!table) return;
    const select = article.querySelector(".baseline"), isOn = article.querySelector(".differences");
    const rows = [...table.querySelectorAll("tbody tr")];
    const show = () => {
      const base = rows.find((row) => row.dataset.round === select.value);
      for (const row of rows) {
        row.classList.toggle("baseline", isOn.checked && row === base);
        [...row.cells].forEach((cell, place) => {
          cell.querySelectorAll(".difference").forEach((old) => old.remove());
          const now = cell.dataset.value, then = base.cells[place].dataset.value;
          if (isOn.checked && row !== base && now !== undefined && then !== undefined) {
            cell.append(make("span", { class: "difference" }, signed(now - then, Number(cell.dataset.digits))));
          }
        });
      }
    };
    select.addEventListener("change", () => { isOn.checked = true; show(); });
    isOn.addEventListener("change", show);
  };

  // ---- samples

  const highlighted = (text, wanted) => {
    const place = wanted ? text.toLowerCase().indexOf(wanted) : -1;
    if (place < 0) return [text];
    const end = place + wanted.length;
    return [text.slice(0, place), make("mark", {}, text.slice(place, end)), text.slice(end)];
  };

  const samplesOf = (run, article) => {
    const found = run.samples, room = article.querySelector(".samples");
    if (!found) return;
    const part = (name) => room.querySelector(name);
    const grid = part(".grid"), from = part(".from"), to = part(".to"), every = part(".every"), scorer = part(".scorer");
    const search = part(".search input"), more = part(".more"), modes = [...room.querySelectorAll("[data-mode]")];
    const state = { mode: "all", limit: PAGE, rows: [] };
    const chosen = found.rounds.indexOf(run.chosen.round);
    from.value = "0";
    to.value = String(chosen > 0 ? chosen : found.rounds.length - 1);

    const cell = (column, name, row) => found.by_round[column][name][row];
    const scoring = () => (scorer ? scorer.value : found.scorers[0]);
    const score = (column, row) => {
      const scores = found.by_round[column].scores[scoring()];
      return scores ? scores[row] : null;
    };
    const gain = (row) => {
      const [before, after] = [score(+from.value, row), score(+to.value, row)];
      return before == null || after == null ? null : after - before;
    };
    const tokens = (row) => cell(+to.value, "num_tokens", row) ?? -1;
    const filters = {
      all: () => true,
      changed: (row) => cell(+from.value, "texts", row) !== cell(+to.value, "texts", row),
      gain: (row) => gain(row) > 0,
      loss: (row) => gain(row) !== null && gain(row) < 0,
      longest: (row) => tokens(row) >= 0,
      unfinished: (row) => cell(+to.value, "finished", row) === 0,
    };
    const orders = {
      gain: (a, b) => gain(b) - gain(a),
      loss: (a, b) => gain(a) - gain(b),
      longest: (a, b) => tokens(b) - tokens(a),
    };
    const columns = () => (every && every.checked ? found.rounds.map((_, place) => place) : [...new Set([+from.value, +to.value])]);
    const matches = (row, wanted) => found.prompts[row].toLowerCase().includes(wanted)
      || columns().some((column) => (cell(column, "texts", row) || "").toLowerCase().includes(wanted));

    const select = () => {
      const wanted = search.value.trim().toLowerCase();
      state.rows = found.prompts.map((_, row) => row).filter((row) => filters[state.mode](row) && (!wanted || matches(row, wanted)));
      if (orders[state.mode]) state.rows.sort((a, b) => orders[state.mode](a, b) || a - b);
      state.limit = PAGE;
      show();
    };
    const answer = (column, row, wanted) => {
      const text = cell(column, "texts", row);
      if (text === null) return "–";
      const facts = make("span", { class: "facts" });
      const value = score(column, row);
      if (value != null) {
        facts.append(`score ${short(value)}`);
        const base = score(+from.value, row);
        if (column !== +from.value && base != null) {
          const moved = value - base;
          facts.append(" (", make("span", { class: moved > 0 ? "up" : moved < 0 ? "down" : "" }, signed(moved, 2)), ")");
        }
        facts.append(" · ");
      }
      facts.append(`${cell(column, "num_tokens", row)} tokens`);
      if (!cell(column, "finished", row)) facts.append(" · ", make("span", { class: "cut" }, "unfinished"));
      const button = make("button", { type: "button", class: "answer" }, make("span", { class: "text" }, ...highlighted(text || "(nothing)", wanted)), facts);
      button.addEventListener("click", () => openDrawer(run, state.rows, state.rows.indexOf(row), column, button));
      return button;
    };
    const show = () => {
      const wanted = search.value.trim().toLowerCase(), shown = columns();
      grid.classList.toggle("wide", shown.length > 3);
      grid.tHead.replaceChildren(make("tr", {}, make("th", { scope: "col" }, "prompt"), ...shown.map((column) => make("th", { scope: "col" }, `round ${found.rounds[column]}`))));
      grid.tBodies[0].replaceChildren(...state.rows.slice(0, state.limit).map((row) => make("tr", { "data-row": row },
        make("th", { scope: "row" }, make("p", {}, ...highlighted(found.prompts[row], wanted)), make("span", { class: "row" }, `row ${found.rows[row]}`)),
        ...shown.map((column) => make("td", { "data-round": `round ${found.rounds[column]}` }, answer(column, row, wanted))))));
      part(".shown").textContent = `${Math.min(state.limit, state.rows.length)} of ${state.rows.length} prompts`;
      more.hidden = state.rows.length <= state.limit;
    };
    const hasScores = found.scorers.length > 0;
    for (const button of modes) {
      if (!hasScores && ["gain", "loss"].includes(button.dataset.mode)) {
        button.disabled = true;
        button.title = "No scorer gave these responses scores";
      }
      button.addEventListener("click", () => {
        state.mode = button.dataset.mode;
        modes.forEach((one) => one.setAttribute("aria-pressed", String(one === button)));
        select();
      });
    }
    [from, to, every, scorer].forEach((one) => one && one.addEventListener("change", select));
    let typing = 0;
    search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(select, 120); });
    more.addEventListener("click", () => { state.limit += 4 * PAGE; show(); });
    select();
  };

  // ---- one response, token by token

  const drawer = document.getElementById("drawer"), inside = drawer.querySelector(".inside");
  let opened = null;
  const openDrawer = (run, rows, place, column, origin) => {
    opened = { run, rows, place, column, origin };
    fill();
    if (!drawer.open) drawer.showModal();
  };
  const go = (rows, columns) => {
    const { run, rows: all } = opened;
    const place = opened.place + rows, column = opened.column + columns;
    if (place < 0 || place >= all.length || column < 0 || column >= run.samples.rounds.length) return;
    Object.assign(opened, { place, column });
    fill();
  };
  const step = (words, rows, columns, title) => {
    const button = make("button", { type: "button", title }, words);
    button.addEventListener("click", () => go(rows, columns));
    return button;
  };
  const fill = () => {
    const { run: { samples }, rows, place, column } = opened, row = rows[place], round = samples.by_round[column];
    const text = round.texts[row];
    const scores = Object.entries(round.scores).filter(([, values]) => values[row] != null).map(([name, values]) => `${name} ${short(values[row])}`);
    const total = round.logps[row] && round.logps[row].reduce((sum, logp) => sum + logp, 0) / UNITS_PER_NAT;
    const facts = text === null ? ["this round has no response"] : [
      ...scores,
      `${round.num_tokens[row]} tokens`,
      round.finished[row] ? "ended by itself" : "unfinished",
      ...(total == null ? [] : [`log-probability ${total.toFixed(2)} nats, ${(total / Math.max(round.num_tokens[row], 1)).toFixed(2)} a token`]),
    ];
    inside.replaceChildren(
      make("h3", {}, `Round ${samples.rounds[column]}, row ${samples.rows[row]}`),
      make("h4", {}, "Prompt"), make("pre", { class: "prompt" }, samples.prompts[row]),
      make("h4", {}, "Response"), make("pre", { class: "response" }, text ?? "–"),
      make("p", { class: "facts" }, facts.join(" · ")),
      make("h4", {}, "Tokens and their log-probabilities, in nats"), tokensOf(samples, round, row));
    drawer.scrollTop = 0;
  };
  const tokensOf = (samples, round, row) => {
    const ids = round.ids[row];
    if (!ids) return make("p", { class: "none" }, round.texts[row] === null ? "None." : "Left out of this page, which has room for the first prompts' alone.");
    const list = make("div", { class: "tokens" });
    ids.forEach((id, place) => {
      const logp = round.logps[row][place] / UNITS_PER_NAT, text = samples.tokens[id] ?? `#${id}`;
      const token = make("span", { class: "token", title: `id ${id}` }, text === "" ? "∅" : text.replace(/\n/g, "⏎"), make("small", {}, logp.toFixed(2)));
      const share = Math.round(Math.min(-logp / 6, 1) * 55);
      token.style.background = `color-mix(in srgb, var(--c1) ${share}%, transparent)`;
      list.append(token);
    });
    return list;
  };
  const close = make("button", { type: "button", class: "close" }, "Close");
  close.addEventListener("click", () => drawer.close());
  // The bar stays while what is below it changes, so that what has the keyboard's focus keeps it.
  inside.before(make("div", { class: "bar" },
    step("← round", 0, -1, "The round before (left arrow)"), step("round →", 0, 1, "The next round (right arrow)"),
    step("↑ prompt", -1, 0, "The prompt before (up arrow)"), step("prompt ↓", 1, 0, "The next prompt (down arrow)"), close));
  drawer.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (moves[event.key]) { event.preventDefault(); go(...moves[event.key]); }
  });
  drawer.addEventListener("click", (event) => { if (event.target === drawer) drawer.close(); });
  drawer.addEventListener("close", () => { if (opened && opened.origin.isConnected) opened.origin.focus(); });

  // ---- the page

  const chart = (place, build) => { if (place && build) observer.observe(draw(place, build).target); else if (place) place.remove(); };
  for (const article of document.querySelectorAll("article.run")) {
    const run = data.runs[Number(article.dataset.run)];
    chart(article.querySelector(".frontier"), frontier([run]));
    for (const place of article.querySelectorAll("[data-chart]")) chart(place, curves(run, run.training.charts[Number(place.dataset.chart)]));
    differences(article);
    samplesOf(run, article);
  }
  chart(document.getElementById("all-frontiers"), frontier(data.runs));
  document.documentElement.dataset.ready = "true";
})();
