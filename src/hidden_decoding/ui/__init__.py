"""The chat page and its small server; standard library only, so it runs where only this package is installed.

Contract for whoever serves the page: answer GET below the page's root with `page_files.page_file(path)` and send
`page_files.headers_for(content_type)`. The root must end in a slash, since the page uses relative URLs only. The page
first asks for `config.json` (`page_files.page_config`); without one (404) it takes `v1` beside itself as its API. Files
of the page need no key; the API's key is typed into the page.

    $ python -m hidden_decoding.ui --base-url http://localhost:8080/v1
"""
