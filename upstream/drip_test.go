package upstream_test

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/oci"
	"github.com/weirhq/weir/upstream"
)

// A small answer that drips ends in bounded time, whatever part of it drips. One that comes
// at the pace of a slow line goes on.
func TestDrippingBody(t *testing.T) {
	const jsonType = "application/vnd.oci.image.index.v1+json"
	manifest := func(ctx context.Context, c *upstream.Client) error {
		_, err := c.Manifest(ctx, "repo", oci.ByTag("v1"))
		return err
	}
	tags := func(ctx context.Context, c *upstream.Client) error {
		_, err := c.Tags(ctx, "repo", nil)
		return err
	}
	referrers := func(ctx context.Context, c *upstream.Client) error {
		_, err := c.Referrers(ctx, "repo", digest.FromString("subject"), "")
		return err
	}
	challenge := `Www-Authenticate: Bearer realm="http://registry.test/token"`
	for name, tc := range map[string]struct {
		ask    func(context.Context, *upstream.Client) error
		status string
		header string
		chunk  int // bytes each second
		size   int
		most   time.Duration // until it fails; 0: it comes as a whole
	}{
		"a manifest":                {manifest, "200 OK", "", 1, 1 << 20, 62 * time.Second},
		"tags":                      {tags, "200 OK", "", 1000, 1 << 20, 62 * time.Second},
		"tags, a long list":         {tags, "200 OK", "", 15 << 10, 4 << 20, 80 * time.Second},
		"referrers":                 {referrers, "200 OK", "", 1, 1 << 20, 62 * time.Second},
		"an error document":         {manifest, "500 Internal Server Error", "", 1, 1 << 10, 72 * time.Second},
		"a token":                   {manifest, "401 Unauthorized", challenge, 1, 1 << 10, 72 * time.Second},
		"a manifest on a slow line": {manifest, "200 OK", "", 20 << 10, 4 << 20, 0},
		"a list on a slow line":     {referrers, "200 OK", "", 20 << 10, 4 << 20, 0},
		"a short one that drips":    {manifest, "200 OK", "", 20, 1000, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				body := fmt.Sprintf(`{"schemaVersion":2,"mediaType":%q,"manifests":[],"tags":[],"token":"t","x":%q}`, jsonType, strings.Repeat("x", tc.size))
				answer := func(path string) (head, content string, chunk int) {
					if tc.header != "" && path != "/token" {
						return fmt.Sprintf("HTTP/1.1 %s\r\n%s\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", tc.status, tc.header), "", 1
					}
					status := tc.status
					if path == "/token" {
						status = "200 OK"
					}
					return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", status, jsonType, len(body)), body, tc.chunk
				}
				c := upstream.NewClient(upstream.Options{
					URL: &url.URL{Scheme: "http", Host: "registry.test"}, UserAgent: "weir/test",
					DialContext: func(context.Context, string, string) (net.Conn, error) {
						client, server := net.Pipe()
						go drip(server, answer)
						return client, nil
					},
				})
				defer c.Close()
				began := time.Now()
				err := tc.ask(t.Context(), c)
				took := time.Since(began)
				time.Sleep(2 * time.Second) // the server notices the end
				synctest.Wait()
				if tc.most == 0 {
					if err != nil {
						t.Error(err)
					}
					return
				}
				if e := wantError(t, err, upstream.ErrUnavailable); took > tc.most || !e.Timeout() && e.Status == 0 {
					t.Errorf("%v after %s", err, took)
				}
			})
		})
	}
}

// drip answers one request with a body, a chunk each second.
func drip(conn net.Conn, answer func(path string) (head, body string, chunk int)) {
	defer conn.Close()
	req, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	head, body, chunk := answer(req.URL.Path)
	_, err = fmt.Fprint(conn, head)
	for err == nil && len(body) > 0 {
		n := min(chunk, len(body))
		_, err = conn.Write([]byte(body[:n]))
		body = body[n:]
		time.Sleep(time.Second)
	}
}
