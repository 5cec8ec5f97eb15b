"""What a browser is given: the page, its modules and styles.

- `index.html`, `style.css`, `app/`: ours; `vendor/`: of others, fetched by tools/webmodules.py
- `modules`: which modules import which
- `pagefiles`: all files, as they are served
- `pageroutes`: the routes
"""
