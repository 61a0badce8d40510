// The desk's keys: each presses what has its `data-key`. Whatever has none of this works by mouse, touch or Tab as well.
"use strict";

(() => {
  const KEYS_OFF = "lifeguard-keys-off"; // single keys get in the way of speech input: they can be switched off
  const said = () => document.getElementById("said");
  const busy = () => document.querySelector(".htmx-request") !== null;

  function say(words) {
    said().textContent = words;
  }

  function open(dialog) {
    if (!dialog.open) {
      dialog.showModal();
    }
  }

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || event.ctrlKey || event.altKey || event.metaKey || event.repeat) {
      return;
    }
    if (event.target.closest("input:not([type=checkbox]), textarea, select, dialog")) {
      return;
    }
    if (localStorage.getItem(KEYS_OFF) || document.querySelector("dialog[open]")) {
      return;
    }
    const pressed = document.querySelector(`[data-key="${CSS.escape(event.key)}"]`);
    if (pressed === null || pressed.disabled) {
      return;
    }
    event.preventDefault();
    if (busy()) {
      return; // the next message is not there yet: nobody labels what they have not seen
    }
    if (pressed.hasAttribute("data-decides") && document.querySelector("details.cover:not([open])")) {
      say("Show the text first: s.");
      return;
    }
    pressed.click();
  });

  document.addEventListener("click", (event) => {
    const opener = event.target.closest("[data-dialog]");
    if (opener !== null) {
      open(document.getElementById(opener.dataset.dialog));
    }
  });

  document.addEventListener("htmx:afterSettle", (event) => {
    const heading = event.detail.target.id === "guideline-text" ? "guideline-heading" : "heading";
    document.getElementById(heading)?.focus({ preventScroll: heading === "guideline-heading" });
  });

  for (const failure of ["htmx:sendError", "htmx:timeout"]) {
    document.addEventListener(failure, () => say("The guard does not answer. Try again: what was recorded is not recorded twice."));
  }

  const toggle = document.getElementById("keys-on");
  if (toggle !== null) {
    toggle.checked = !localStorage.getItem(KEYS_OFF);
    toggle.addEventListener("change", () => {
      if (toggle.checked) {
        localStorage.removeItem(KEYS_OFF);
      } else {
        localStorage.setItem(KEYS_OFF, "1");
      }
    });
  }
})();
