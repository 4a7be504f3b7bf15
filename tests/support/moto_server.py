"""Serves moto's S3 on a free port of this host and prints the port.

moto looks and writes in two steps: conditions count only while one request at a time is carried out.
"""

import threading

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

application = DomainDispatcherApplication(create_backend_app)
alone = threading.Lock()


def one_at_a_time(environ, start_response):
    # The body is read before the lock is taken: a client that stalls holds up nobody.
    length = int(environ.get("CONTENT_LENGTH") or 0)
    if length:
        import io

        environ["wsgi.input"] = io.BytesIO(environ["wsgi.input"].read(length))
    # What S3 itself takes for an object under a lock: "Content-MD5 OR x-amz-checksum- HTTP header is required".
    if environ.get("HTTP_X_AMZ_CHECKSUM_SHA256"):
        environ["HTTP_X_AMZ_SDK_CHECKSUM_ALGORITHM"] = "SHA256"
    with alone:
        return list(application(environ, start_response))


server = make_server("127.0.0.1", 0, one_at_a_time, threaded=True)
print(server.server_port, flush=True)
server.serve_forever()
