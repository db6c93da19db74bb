"use strict";
(() => {
  const at = (id) => document.getElementById(id);
  const ask = (method, path) =>
    fetch(path, {method, credentials: "same-origin", redirect: "error", cache: "no-store", headers: {accept: "application/json"}});
  const show = (text) => {
    at("try-answer").textContent = text;
    at("try-answer").hidden = false;
  };
  const see = async () => {
    const answer = await ask("GET", "/api/v1/browser-sessions/current");
    const current = answer.ok ? await answer.json() : null;
    at("who").textContent = current
      ? `Signed in as ${current.user.name} (${current.user.role}), until ${current.session.expires}, for ${current.session.scopes.join(", ")}.`
      : "Not signed in.";
    at("sign-in").hidden = current !== null;
    at("sign-out").hidden = current === null;
    at("try").hidden = current === null;
  };
  at("sign-out").addEventListener("click", async () => {
    await ask("DELETE", "/api/v1/browser-sessions/current");
    at("try-answer").hidden = true;
    await see();
  });
  at("try").addEventListener("submit", async (event) => {
    event.preventDefault();
    const path = at("try-path").value.trim();
    if (!path.startsWith("/") || path.startsWith("//")) {
      show("A path begins with one slash.");
      return;
    }
    show("…");
    try {
      const answer = await ask("GET", path);
      const text = (await answer.text()).slice(0, 200000);
      let told = text;
      try {
        told = JSON.stringify(JSON.parse(text), null, 2);
      } catch {}
      show(`${answer.status}\n\n${told}`);
    } catch (error) {
      show(`No answer: ${error.message}`);
    }
  });
  for (const code of document.querySelectorAll("summary code.get + code")) {
    const option = document.createElement("option");
    option.value = code.textContent;
    at("paths").append(option);
  }
  see().catch(() => {});
})();
