fetch("/api/v1/kv/openapi.json")
  .then((answer) => answer.text())
  .then((text) => { document.getElementById("document").textContent = text; });
