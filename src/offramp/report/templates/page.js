(function () {
  function openTo(hash) {
    var node = hash.length > 1 ? document.getElementById(decodeURIComponent(hash.slice(1))) : null;
    for (var at = node; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
    if (node) {
      node.scrollIntoView();
      document.querySelectorAll(".here").forEach(function (old) { old.classList.remove("here"); });
      (node.closest("tr") || node).classList.add("here");
    }
  }
  window.addEventListener("hashchange", function () { openTo(location.hash); });
  window.addEventListener("beforeprint", function () {
    document.querySelectorAll("details").forEach(function (part) { part.open = true; });
  });
  document.getElementById("save").addEventListener("click", function (event) {
    event.preventDefault();
    var blob = new Blob([document.getElementById("result").textContent], { type: "application/json" });
    var link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = "result.json";
    link.click();
  });
  openTo(location.hash);
})();
