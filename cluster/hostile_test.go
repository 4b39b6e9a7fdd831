package cluster_test

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/cluster"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// script answers each connection with a text, and holds it open.
func script(t *testing.T, n *upstreamtest.Network, address string, answer func(c net.Conn)) {
	t.Helper()
	l, err := n.Listen(address)
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	done := make(chan struct{})
	serving.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				answer(conn)
				<-done
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		close(done)
		serving.Wait()
	})
}

// say returns an answer that is always the same.
func say(text string) func(net.Conn) {
	return func(c net.Conn) { _, _ = io.WriteString(c, text) }
}

// Whatever a replica answers, the download goes on within a bounded time with the turn of its
// own, and no further host is asked.
func TestHostileReplica(t *testing.T) {
	const head = "HTTP/1.1 206 Partial Content\r\nWeir-Cluster: 1\r\n"
	every := func(pause time.Duration, first, text string) func(net.Conn) {
		return func(c net.Conn) {
			_, err := io.WriteString(c, first)
			for err == nil {
				time.Sleep(pause)
				_, err = io.WriteString(c, text)
			}
		}
	}
	const never = 0
	for name, tc := range map[string]struct {
		answer func(net.Conn)
		opens  bool          // the answer's header is believed
		within time.Duration // until the replica is left
	}{
		"says nothing":                 {say(""), false, time.Second},
		"lives, and delivers nothing":  {every(time.Second, "", "HTTP/1.1 102 Processing\r\n\r\n"), false, 3 * lease},
		"lives without end":            {every(0, "", strings.Repeat("HTTP/1.1 102 Processing\r\n\r\n", 100)), false, never},
		"lives once":                   {say("HTTP/1.1 102 Processing\r\n\r\n"), false, lease},
		"is another server":            {say("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-9/10\r\nContent-Length: 10\r\n\r\n0123456789"), false, never},
		"answers with a page":          {say("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"), false, never},
		"speaks another version":       {say("HTTP/1.1 206 Partial Content\r\nWeir-Cluster: 2\r\nWeir-Place: 0/10\r\nContent-Length: 10\r\n\r\n0123456789"), false, never},
		"redirects":                    {say("HTTP/1.1 307 Temporary Redirect\r\nWeir-Cluster: 1\r\nLocation: http://metadata.internal:80/\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), false, never},
		"fails":                        {say("HTTP/1.1 500 Internal Server Error\r\nWeir-Cluster: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), false, never},
		"begins elsewhere":             {say(head + "Weir-Place: 5/10\r\nContent-Length: 5\r\n\r\n56789"), false, never},
		"has no place":                 {say(head + "Content-Length: 10\r\n\r\n0123456789"), false, never},
		"has a negative size":          {say(head + "Weir-Place: 0/-5\r\nContent-Length: 10\r\n\r\n0123456789"), false, never},
		"has a size beyond all":        {say(head + "Weir-Place: 0/99999999999999999999\r\nContent-Length: 10\r\n\r\n0123456789"), false, never},
		"has an endless header":        {say(head + "X: " + strings.Repeat("x", 64<<10)), false, time.Second},
		"speaks another protocol":      {say("SSH-2.0-OpenSSH_9.2\r\n"), false, never},
		"is cut":                       {say(head + "Weir-Place: 0/10\r\nConnection: close\r\n\r\n01234"), true, 4 * lease},
		"stops":                        {say(head + "Weir-Place: 0/10\r\nContent-Length: 10\r\n\r\n01234"), true, 4 * lease},
		"trickles":                     {every(time.Second, head+"Weir-Place: 0/1000000\r\nContent-Length: 1000000\r\n\r\n", "x"), true, 4 * lease},
		"trickles without a known end": {every(time.Second, head+"Weir-Place: 0/*\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"), true, 4 * lease},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				script(t, b.network, "evil:8001", tc.answer)
				evil, one := b.start("other", func(o *cluster.Options) { o.URL = "http://evil:8001" }), b.start("one")
				time.Sleep(lease) // its presence has been asked for
				dgst, _ := body(1000)
				evil.turn(t, dgst, 0) // its lease is renewed for ever
				begun := time.Now()
				stream, err := one.Open(t.Context(), one.want(dgst, 0))
				if opens := err == nil; opens != tc.opens {
					t.Fatalf("Open: %v", err)
				}
				if err == nil {
					n, err := io.Copy(io.Discard, stream)
					if err == nil {
						t.Errorf("%d bytes pass for the whole", n)
					}
					stream.Close()
					_, err = one.Open(t.Context(), one.want(dgst, n))
					if !errors.Is(err, cluster.ErrTurn) {
						t.Errorf("the next Open: %v", err)
					}
				} else if !errors.Is(err, cluster.ErrTurn) {
					t.Errorf("Open: %v", err)
				}
				if took := time.Since(begun); took > tc.within+time.Second {
					t.Errorf("it took %s, want %s", took, tc.within)
				}
				for _, host := range b.network.Dialed() {
					if host != "evil:8001" && host != "one:8001" {
						t.Errorf("connected to %s", host)
					}
				}
			})
		})
	}
}

// More bytes than were announced are not read.
func TestReplicaSendsMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		script(t, b.network, "evil:8001", func(c net.Conn) {
			_, err := io.WriteString(c, "HTTP/1.1 206 Partial Content\r\nWeir-Cluster: 1\r\nWeir-Place: 0/10\r\nTransfer-Encoding: chunked\r\n\r\n")
			for err == nil {
				_, err = io.WriteString(c, "4\r\n0123\r\n")
			}
		})
		evil, one := b.start("other", func(o *cluster.Options) { o.URL = "http://evil:8001" }), b.start("one")
		dgst, _ := body(1000)
		evil.turn(t, dgst, 0)
		stream, err := one.Open(t.Context(), one.want(dgst, 0))
		if err != nil {
			t.Fatal(err)
		}
		all(t, stream, []byte("0123012301"))
		// Wrong bytes: the replica is passed over for a minute, and that is logged.
		stream.Reject()
		one.turn(t, dgst, 0)
		if err := logged(one.log, "a replica is skipped for a while", "do not match their digest"); err != nil {
			t.Error(err)
		}
	})
}

// A replica that serves as many requests as it can is no failure: others go on alone, and
// leave it its lease.
func TestBusyReplica(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		script(t, b.network, "busy:8001", func(c net.Conn) {
			_, _ = io.WriteString(c, "HTTP/1.1 503 Service Unavailable\r\nWeir-Cluster: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
		})
		busy, one := b.start("other", func(o *cluster.Options) { o.URL = "http://busy:8001" }), b.start("one")
		dgst, _ := body(1000)
		busy.turn(t, dgst, 0)
		if _, err := one.Open(t.Context(), one.want(dgst, 0)); !errors.Is(err, cluster.ErrAlone) {
			t.Errorf("Open: %v", err)
		}
		busy.end(false)
		synctest.Wait()
		busy.counts(t, "lost", 0)
	})
}

// A replica that refuses connections is asked three times, and then no longer. The log says so
// once.
func TestDeadReplicaIsSkipped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		holder, one := b.start("holder"), b.start("one")
		var held []digest.Digest
		for i := range 6 {
			dgst, _ := body(1000 + i)
			holder.turn(t, dgst, 0)
			held = append(held, dgst)
		}
		synctest.Wait() // until the replicas have found each other
		holder.server.Close()
		before := b.network.Dials("holder:8001")
		for _, dgst := range held {
			one.turn(t, dgst, 0)
			one.end(false)
		}
		if dials := b.network.Dials("holder:8001") - before; dials != 3 {
			t.Errorf("it was asked %d times, want 3\n%s", dials, one.log)
		}
		if n := one.log.Count("a replica cannot be read"); n != 1 {
			t.Errorf("the log says so %d times:\n%s", n, one.log)
		}
		holder.end(false)
	})
}

// An upstream that lies or hangs does so through the replica that downloads from it. That one
// is passed over for the upstream's block alone.
func TestTroubleOfOneBlock(t *testing.T) {
	dgst, bytes := body(1000)
	of := func(r *replica, block string) cluster.Want {
		want := r.want(dgst, 0)
		want.Block = block
		return want
	}
	for name, trouble := range map[string]func(t *testing.T, g *growing, holder, one *replica){
		"it lies": func(t *testing.T, g *growing, _, one *replica) {
			g.add(bytes)
			stream, err := one.Open(t.Context(), of(one, "hostile"))
			if err != nil {
				t.Fatal(err)
			}
			stream.Reject()
			stream.Close()
		},
		"it delivers no byte": func(t *testing.T, _ *growing, _, one *replica) {
			stream, err := one.Open(t.Context(), of(one, "hostile"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, stream); !errors.Is(err, cluster.ErrSilent) {
				t.Errorf("the stream ends with %v", err)
			}
			stream.Close()
		},
		"it gives no answer": func(t *testing.T, _ *growing, holder, one *replica) {
			for range 5 {
				holder.contents.hang()
				_, _ = one.Open(t.Context(), of(one, "hostile"))
				one.end(false)
			}
			holder.contents.resume()
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				holder, one := b.start("holder"), b.start("one")
				for _, block := range []string{"hostile", "good"} {
					if _, err := holder.Open(t.Context(), of(holder, block)); !errors.Is(err, cluster.ErrTurn) {
						t.Fatal(err)
					}
				}
				g := newGrowing(len(bytes))
				holder.contents.set(dgst, g)
				trouble(t, g, holder, one)
				if stream, err := one.Open(t.Context(), of(one, "hostile")); err == nil {
					t.Error("the replica is read for the same block")
					stream.Close()
				}
				stream, err := one.Open(t.Context(), of(one, "good"))
				if err != nil {
					t.Fatalf("another block: %v", err)
				}
				stream.Close()
				one.end(false)
				holder.end(false)
			})
		})
	}
}

// A replica with a certificate tells nothing to one without, to which a forged value may lead.
func TestEncryptionIsNotLeft(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		script(t, b.network, "evil:8001", say("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"))
		plain := b.start("plain", func(o *cluster.Options) { o.URL, o.Secret = "http://evil:8001", "" })
		one := b.start("one", func(o *cluster.Options) {
			o.URL, o.Secret, o.TLS = "https://one:8001", "", &tls.Config{MinVersion: tls.VersionTLS13}
		})
		dgst, _ := body(1000)
		plain.turn(t, dgst, 0)
		one.turn(t, dgst, 0)
		plain.end(true)
		synctest.Wait()
		other, _ := body(999)
		if err := b.redis.Write(t.Context(), cluster.HaveKey(prefix, one.want(other, 0)), plain.Note(""), time.Hour); err != nil {
			t.Error(err)
		}
		one.turn(t, other, 0)
		one.end(false)
		for _, host := range b.network.Dialed() {
			if host == "evil:8001" {
				t.Errorf("connected to %s", host)
			}
		}
	})
}

// Values that no replica with the same secret wrote, for this key, lead nowhere.
func TestHostileValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one := b.start("one")
		stranger := cluster.New(cluster.Options{URL: "http://evil:8001", Lease: lease, Secret: "another secret, as long as the first one is"})
		friend := cluster.New(cluster.Options{URL: "http://evil:8001", Lease: lease, Secret: secret})
		odd := func(url string) string {
			c := cluster.New(cluster.Options{URL: url, Lease: lease, Secret: secret})
			defer c.Close()
			dgst, _ := body(1000)
			return c.Note(cluster.LeaseKey(prefix, one.want(dgst, 0)))
		}
		defer stranger.Close()
		defer friend.Close()
		dgst, _ := body(1000)
		key, have := cluster.LeaseKey(prefix, one.want(dgst, 0)), cluster.HaveKey(prefix, one.want(dgst, 0))
		unsealed := map[string]any{}
		if err := json.Unmarshal([]byte(friend.Note(key)), &unsealed); err != nil {
			t.Fatal(err)
		}
		delete(unsealed, "seal")
		without, _ := json.Marshal(unsealed)
		for name, value := range map[string]string{
			"no JSON":            "http://evil:8001",
			"a number":           "7",
			"null":               "null",
			"another version":    `{"v":2,"token":"x","url":"http://evil:8001"}`,
			"no seal":            string(without),
			"another secret":     stranger.Note(key),
			"of another key":     friend.Note(cluster.LeaseKey(prefix, cluster.Want{Digest: dgst, Block: "quay.io"})),
			"a path":             odd("http://evil:8001/latest/meta-data"),
			"a query":            odd("http://evil:8001?x"),
			"a user":             odd("http://user@evil:8001"),
			"no port":            odd("http://evil"),
			"a port beyond all":  odd("http://evil:99999"),
			"another scheme":     odd("gopher://evil:8001"),
			"a file":             odd("file:///etc/passwd"),
			"a long host":        odd("http://" + strings.Repeat("e", 400) + ":8001"),
			"longer than a note": strings.Repeat("x", cluster.MaxValue+1),
		} {
			for _, at := range []string{key, have} {
				b.redis.flush()
				if err := b.redis.Write(t.Context(), at, value, time.Hour); err != nil {
					t.Fatal(err)
				}
				_, err := one.Open(t.Context(), one.want(dgst, 0))
				if err == nil {
					t.Errorf("%s at %s: a stream", name, at)
				}
				if at == have && !errors.Is(err, cluster.ErrTurn) {
					t.Errorf("%s at %s: %v", name, at, err)
				}
				one.end(false)
				synctest.Wait()
			}
		}
		for _, host := range b.network.Dialed() {
			t.Errorf("connected to %s", host)
		}
	})
}

// The listener answers replicas alone, and all its work is bounded.
func TestRequests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one := b.start("one")
		dgst, bytes := body(1000)
		g := newGrowing(len(bytes))
		g.stored = true
		g.add(bytes)
		one.contents.set(dgst, g)
		want := cluster.Want{Digest: dgst, Block: "docker.io", Offset: 10}
		path := "/blobs/" + dgst.String() + "?block=docker.io"
		now := time.Now()
		good := cluster.Sign(secret, want, false, now)
		other, _ := body(999)
		transport := &http.Transport{DialContext: b.network.DialContext, DisableKeepAlives: true}
		defer transport.CloseIdleConnections()
		for name, tc := range map[string]struct {
			method, path, authorization, byteRange, version, body string
			status                                                int
		}{
			"a replica's":            {"GET", path, good, "bytes=10-", "1", "", 206},
			"no authorization":       {"GET", path, "", "bytes=10-", "1", "", 401},
			"another secret":         {"GET", path, cluster.Sign(strings.ToUpper(secret), want, false, now), "bytes=10-", "1", "", 401},
			"no seal":                {"GET", path, strings.TrimRight(good, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_"), "bytes=10-", "1", "", 401},
			"of another digest":      {"GET", strings.Replace(path, dgst.String(), other.String(), 1), good, "bytes=10-", "1", "", 401},
			"of another block":       {"GET", path + "x", good, "bytes=10-", "1", "", 401},
			"of another offset":      {"GET", path, good, "bytes=0-", "1", "", 401},
			"of a stored one":        {"GET", path + "&stored=1", good, "bytes=10-", "1", "", 401},
			"of a name":              {"GET", "/replica", good, "", "1", "", 401},
			"an old one":             {"GET", path, cluster.Sign(secret, want, false, now.Add(-61*time.Second)), "bytes=10-", "1", "", 403},
			"one of the future":      {"GET", path, cluster.Sign(secret, want, false, now.Add(61*time.Second)), "bytes=10-", "1", "", 403},
			"one of another version": {"GET", path, good, "bytes=10-", "2", "", 400},
			"a POST":                 {"POST", path, good, "bytes=10-", "1", "", 405},
			"with a body":            {"GET", path, good, "bytes=10-", "1", "hello", 400},
			"no range":               {"GET", path, good, "", "1", "", 400},
			"a closed range":         {"GET", path, good, "bytes=10-20", "1", "", 400},
			"a suffix":               {"GET", path, good, "bytes=-10", "1", "", 400},
			"no digest":              {"GET", "/blobs/latest", good, "bytes=10-", "1", "", 400},
			"a way up":               {"GET", "/blobs/../../etc/passwd", good, "bytes=10-", "1", "", 400},
			"the API of clients":     {"GET", "/v2/", good, "bytes=10-", "1", "", 400},
			"metrics":                {"GET", "/metrics", good, "", "1", "", 400},
			"beyond the end":         {"GET", path, cluster.Sign(secret, cluster.Want{Digest: dgst, Block: "docker.io", Offset: 1001}, false, now), "bytes=1001-", "1", "", 416},
			"at the end":             {"GET", path, cluster.Sign(secret, cluster.Want{Digest: dgst, Block: "docker.io", Offset: 1000}, false, now), "bytes=1000-", "1", "", 206},
			"what is not there":      {"GET", "/blobs/" + other.String() + "?block=docker.io", cluster.Sign(secret, cluster.Want{Digest: other, Block: "docker.io"}, false, now), "bytes=0-", "1", "", 404},
		} {
			req, err := http.NewRequestWithContext(t.Context(), tc.method, one.url+tc.path, strings.NewReader(tc.body))
			if err != nil {
				t.Fatal(err)
			}
			for header, value := range map[string]string{"Authorization": tc.authorization, "Range": tc.byteRange, "Weir-Cluster": tc.version} {
				if value != "" {
					req.Header.Set(header, value)
				}
			}
			answer, err := transport.RoundTrip(req)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				continue
			}
			got, _ := io.ReadAll(answer.Body)
			answer.Body.Close()
			if answer.StatusCode != tc.status || tc.status != 206 && len(got) > 0 {
				t.Errorf("%s: %d with %d bytes, want %d", name, answer.StatusCode, len(got), tc.status)
			}
		}
	})
}

// A stranger does not hold a connection by a body that never comes.
func TestEndlessBody(t *testing.T) {
	for name, header := range map[string]string{"a length": "Content-Length: 100000", "chunks": "Transfer-Encoding: chunked"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t)
				b.start("one")
				conn, err := b.network.DialContext(t.Context(), "", "one:8001")
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				begun := time.Now()
				_, _ = io.WriteString(conn, "POST /replica HTTP/1.1\r\nHost: one\r\n"+header+"\r\n\r\n")
				_ = conn.SetReadDeadline(begun.Add(time.Hour))
				if answer, err := io.ReadAll(conn); err != nil || !strings.HasPrefix(string(answer), "HTTP/1.1 400 ") {
					t.Errorf("%q, %v", answer, err)
				}
				if took := time.Since(begun); took > 5*time.Second {
					t.Errorf("the connection was held for %s", took)
				}
			})
		})
	}
}

// Strangers who hold all connections, and come back at once, do not keep replicas out; those
// of replicas do not make room for them.
func TestStrangersMakeRoom(t *testing.T) {
	c := cluster.New(cluster.Options{Lease: time.Hour, Secret: secret})
	server := c.Server()
	listener, err := cluster.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = c.Serve(server, listener) })
	defer func() {
		server.Close()
		serving.Wait()
		c.Close()
	}()
	at := listener.Addr().String()
	crowd := func() (leave func()) {
		var conns []net.Conn
		for range cluster.MaxConns {
			conn, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, conn)
		}
		return func() {
			for _, conn := range conns {
				conn.Close()
			}
		}
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	ask := func() (reused bool) {
		t.Helper()
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(info httptrace.GotConnInfo) { reused = info.Reused }})
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+at+"/replica", nil)
		req.Header.Set("Authorization", cluster.SignName(secret, time.Now()))
		req.Header.Set("Weir-Cluster", "1")
		answer, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		answer.Body.Close()
		if answer.StatusCode != http.StatusOK {
			t.Fatal(answer.Status)
		}
		return reused
	}
	leave := crowd()
	ask()
	leave()
	defer crowd()()
	if !ask() {
		t.Error("the connection of a replica made room for a stranger")
	}
}

// A request that arrives after the end is not served: its content is closed by then.
func TestLateRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one, two := b.start("one"), b.start("two")
		dgst, bytes := body(1000)
		g := newGrowing(len(bytes))
		g.stored = true
		g.add(bytes)
		one.contents.set(dgst, g)
		one.turn(t, dgst, 0)
		one.end(true)
		one.Close()
		two.turn(t, dgst, 0)
		two.end(false)
	})
}

// Each request of a replica has a place, and one whose replica does not read gives it back.
func TestPlacesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t)
		one := b.start("one")
		dgst, bytes := body(100_000)
		g := newGrowing(len(bytes))
		g.stored = true
		g.add(bytes)
		one.contents.set(dgst, g)
		want := cluster.Want{Digest: dgst, Block: "docker.io"}
		ask := func() *http.Response {
			conn, err := b.network.DialContext(t.Context(), "", "one:8001")
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			fmt.Fprintf(conn, "GET /blobs/%s?block=docker.io HTTP/1.1\r\nHost: one\r\nWeir-Cluster: 1\r\nRange: bytes=0-\r\nAuthorization: %s\r\n\r\n",
				dgst, cluster.Sign(secret, want, false, time.Now()))
			answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			return answer
		}
		for range cluster.MaxServing {
			if answer := ask(); answer.StatusCode != 206 {
				t.Fatal(answer.Status)
			}
		}
		synctest.Wait()
		if answer := ask(); answer.StatusCode != 503 {
			t.Errorf("one more: %s", answer.Status)
		}
		time.Sleep(31 * time.Second) // nothing is read
		synctest.Wait()
		if answer := ask(); answer.StatusCode != 206 {
			t.Errorf("later: %s", answer.Status)
		}
	})
}
