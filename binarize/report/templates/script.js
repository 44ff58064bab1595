(function () {
  "use strict";
  var root = document.documentElement;
  root.classList.add("js");

  var button = document.getElementById("theme");
  var wanted = window.matchMedia("(prefers-color-scheme: dark)");
  function isDark() {
    return root.dataset.theme ? root.dataset.theme === "dark" : wanted.matches;
  }
  function name() {
    button.textContent = isDark() ? "Light" : "Dark";
    button.setAttribute("aria-label", isDark() ? "Switch to light colours" : "Switch to dark colours");
  }
  button.hidden = false;
  button.addEventListener("click", function () {
    root.dataset.theme = isDark() ? "light" : "dark";
    name();
  });
  wanted.addEventListener("change", name);
  name();

  document.querySelectorAll(".compare").forEach(function (compare) {
    var pair = compare.querySelector(".pair");
    var slider = compare.querySelector("input");
    function show() {
      pair.style.setProperty("--split", slider.value + "%");
    }
    function follow(event) {
      var box = pair.getBoundingClientRect();
      slider.value = Math.round((100 * (event.clientX - box.left)) / box.width);
      show();
    }
    slider.hidden = false;
    slider.addEventListener("input", show);
    pair.addEventListener("pointerdown", function (event) {
      event.preventDefault();
      pair.setPointerCapture(event.pointerId);
      follow(event);
    });
    pair.addEventListener("pointermove", function (event) {
      if (pair.hasPointerCapture(event.pointerId)) {
        follow(event);
      }
    });
    show();
  });
})();
