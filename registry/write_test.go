package registry_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestWrites(t *testing.T) {
	r, m := pair(t)
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		for _, path := range []string{"blobs/uploads/", "blobs/uploads/some-id", "manifests/latest", "manifests/" + sha256Dig, "blobs/" + sha256Dig} {
			message := wantError(t, m.do(method, "/v2/up.example/team/app/"+path), 401, "UNAUTHORIZED")
			if want := "up.example/team/app is a read-only mirror of " + r.Host; message != want {
				t.Errorf("%q, want %q", message, want)
			}
			wantError(t, m.do(method, "/v2/elsewhere/app/"+path), 404, "NAME_UNKNOWN")
		}
	}
	if message := wantError(t, m.do("PUT", "/v2/app/manifests/latest?ns=up.example"), 401, "UNAUTHORIZED"); !strings.HasPrefix(message, "app is") {
		t.Errorf("by ns: %s", message)
	}
	if len(r.Requests()) != 0 {
		t.Errorf("a write reached the upstream: %v", r.Requests())
	}
}

// Methods of neither a pull nor a push are refused at every path of the API, whether
// its name is mirrored or not, and reach no upstream.
func TestMethods(t *testing.T) {
	r, m := pair(t)
	everywhere := []string{"/v2", "/v2/", "/v2/_catalog", "/v2/up.example/app/manifests/latest", "/v2/up.example/app/blobs/" + sha256Dig,
		"/v2/up.example/app/tags/list", "/v2/elsewhere/app/blobs/uploads/", "/v2/up.example/app"}
	for method, paths := range map[string][]string{
		"OPTIONS": everywhere, "TRACE": everywhere, "PROPFIND": everywhere, "QUERY": everywhere, "get": everywhere, "Head": everywhere, "put": everywhere,
		// No repository is named that they could write to.
		"POST": {"/v2", "/v2/", "/v2/_catalog"}, "DELETE": {"/v2/", "/v2/_catalog"},
	} {
		for _, path := range paths {
			a := m.do(method, path)
			wantError(t, a, 405, "UNSUPPORTED")
			if allow := a.Header().Get("Allow"); allow != "GET, HEAD" {
				t.Errorf("%s %s: Allow: %q", method, path, allow)
			}
		}
	}
	if len(r.Requests()) != 0 {
		t.Errorf("a refused method reached the upstream: %v", r.Requests())
	}
}

// TestBodyIsNotRead sends headers that promise a body, and never a byte of it.
// The answer must come anyway.
func TestBodyIsNotRead(t *testing.T) {
	_, m := pair(t)
	address := m.server().Listener.Addr().String()
	for path, status := range map[string]int{
		"/v2/up.example/app/blobs/uploads/": 401,
		"/v2/elsewhere/app/blobs/uploads/":  404,
		"/v2/UP/app/blobs/uploads/":         400,
		"/elsewhere":                        404,
	} {
		for _, header := range []string{
			"Content-Length: 1000000", "Content-Length: 10", "Transfer-Encoding: chunked",
			"Content-Length: 1000000\r\nExpect: 100-continue", "Transfer-Encoding: chunked\r\nExpect: 100-continue",
		} {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			conn.SetDeadline(time.Now().Add(10 * time.Second))
			fmt.Fprintf(conn, "PUT %s HTTP/1.1\r\nHost: mirror\r\n%s\r\n\r\n", path, header)
			resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("%s with %q: %v", path, header, err)
			} else {
				body, err := io.ReadAll(resp.Body)
				if resp.StatusCode != status || err != nil || len(body) == 0 || !resp.Close {
					t.Errorf("%s with %q: %s, %q, %v", path, header, resp.Status, body, err)
				}
			}
			conn.Close()
		}
	}
}

func TestBodyIsNotReadOverHTTP2(t *testing.T) {
	_, m := pair(t)
	for _, expect := range []string{"", "100-continue"} {
		body, writer := io.Pipe()
		defer writer.Close()
		req, err := http.NewRequestWithContext(t.Context(), "PUT", m.server().URL+"/v2/up.example/app/manifests/latest", body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength = 1000000
		if expect != "" {
			req.Header.Set("Expect", expect)
		}
		resp, err := client(t, true).Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != 401 || resp.ProtoMajor != 2 {
			t.Errorf("%s %s", resp.Proto, resp.Status)
		}
	}
}
