"""The admin API's requests and replies as types, which the API declares and the command line parses replies with."""
