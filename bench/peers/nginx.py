"""nginx from Debian: a plain reverse proxy; no keys, no routing, the body untouched."""

from __future__ import annotations

import os
import shutil
import subprocess

from bench.peers.peer import Launch, MissingError, Peer, Place

_CONFIG = """
daemon off;
{user}
worker_processes 1;
worker_rlimit_nofile 16384;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  upstream engine {{
    server 127.0.0.1:{engine_port};
    keepalive 256;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=2048;
    client_body_buffer_size 64k;
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
      proxy_read_timeout 3600s;
    }}
  }}
}}
"""


def install() -> None:
    """Take the nginx of this machine, or install Debian's when we are root."""
    if shutil.which("nginx", path=_PATH):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise MissingError("no `nginx` on the path, and not root on a machine with apt-get to install it")
    quiet = {"env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, "capture_output": True, "timeout": 300}
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "nginx-light"]):
        subprocess.run(command, check=False, **quiet)  # type: ignore[call-overload]  # keyword arguments from a dict
    if not shutil.which("nginx", path=_PATH):
        raise MissingError("`apt-get install nginx-light` failed")


_PATH = os.environ.get("PATH", "") + ":/usr/sbin"


def launch(place: Place) -> Launch:
    """One worker, keep-alive to the engine, buffering off as streams want it."""
    config = place.folder / "nginx.conf"
    user = "user root;" if os.geteuid() == 0 else ""
    values = {"folder": place.folder, "port": place.port, "engine_port": place.engine_port, "user": user}
    config.write_text(_CONFIG.format(**values))
    return Launch(command=[shutil.which("nginx", path=_PATH) or "nginx", "-p", str(place.folder), "-c", str(config)])


PEER = Peer(name="nginx", install=install, launch=launch)
