"""What the request path needs of upstreams: connections, choice of servers, deadlines, prices."""
