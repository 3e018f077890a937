"""HTML pages, made from the templates in `templates/`. The only folder that writes markup."""
