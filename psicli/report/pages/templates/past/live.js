"use strict";
(() => {
  // How often the page looks what has changed [ms].
  const INTERVAL = 2000;
  let shown = "";
  const look = async () => {
    const live = document.getElementById("live");
    try {
      const answer = await fetch("/now");
      if (!answer.ok) throw new Error();
      const text = await answer.text();
      // The server has escaped all text, and the policy of the page lets no script in it run.
      if (text !== shown) document.getElementById("now").innerHTML = text;
      shown = text;
      live.textContent = `All times are in UTC. As of ${new Date().toISOString().slice(11, 19)}.`;
    } catch {
      live.textContent = "psicli ui has ended: this is what it showed last.";
    }
    setTimeout(look, INTERVAL);
  };
  document.addEventListener("DOMContentLoaded", () => setTimeout(look, INTERVAL));
})();
