"""The admin API's requests and replies as types: of the API, the command line and whoever shows them."""
