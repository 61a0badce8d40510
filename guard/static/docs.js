// Starts Swagger UI on the page that guard/docs.py serves.
SwaggerUIBundle({ url: "/docs/openapi.json", dom_id: "#docs", deepLinking: true });
