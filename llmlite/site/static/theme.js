"use strict";
// The reader's choice of light or dark, if there is one; otherwise the system's holds.
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");

function remembered(theme) {
  try {
    if (theme) localStorage.setItem("theme", theme);
    return localStorage.getItem("theme");
  } catch {
    return theme; // a browser may forbid it: then the choice lasts for this page
  }
}

function shown() {
  return root.dataset.theme || (dark.matches ? "dark" : "light");
}

if (remembered()) root.dataset.theme = remembered();

addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const label = () => {
    const other = shown() === "dark" ? "Light" : "Dark";
    button.textContent = other;
    button.setAttribute("aria-label", `${other} colours`);
  };
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = shown() === "dark" ? "light" : "dark";
    remembered(root.dataset.theme);
    label();
  });
  dark.addEventListener("change", label);
  label();
});
