// No other host is asked for anything (validatorUrl), no setting is taken from the address bar, and a token lives no
// longer than the page.
window.ui = SwaggerUIBundle({
  url: "/api/v1/kv/openapi.json",
  dom_id: "#swagger-ui",
  presets: [SwaggerUIBundle.presets.apis],
  validatorUrl: null,
  queryConfigEnabled: false,
  persistAuthorization: false,
  deepLinking: true,
  displayRequestDuration: true,
  defaultModelsExpandDepth: 0,
});
