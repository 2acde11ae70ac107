"use strict";
// The reader's choice of light or dark is remembered; without one the system's holds. Where a
// browser forbids to remember it, this ends in the next line, and the button stays hidden.
const root = document.documentElement;
root.dataset.theme =
  localStorage.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");

addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  button.hidden = false;
  button.addEventListener("click", () => {
    localStorage.theme = root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });
});
