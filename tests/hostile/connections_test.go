package hostile

import (
	"context"
	"io"
	"time"
)

// crowd opens connections that it does not use: silent ones, ones that never finish a
// header, and ones that never send the body that they announce.
func crowd(*stage) actor {
	beginnings := []string{
		"",
		"GET /v2/ HTTP/1.1\r\nHost: weir\r\nX-Slow: ",
		"POST /v2/open/app/blobs/uploads/ HTTP/1.1\r\nHost: weir\r\nContent-Length: 1000000000\r\n\r\nx",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /v2/open/app/manifests/w0 HTTP/1.1\r\nHost: weir\r\n\r\n",
	}
	gather := func(ctx context.Context, a *attacker) {
		conn, err := a.dial(ctx)
		if err != nil {
			return
		}
		defer conn.Close()
		a.sent.Add(1)
		if _, err := io.WriteString(conn, beginnings[int(a.next())%len(beginnings)]); err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, conn) // until the mirror has had enough
	}
	return actor{name: "crowd", workers: 200, pause: 500 * time.Millisecond, attack: gather}
}
