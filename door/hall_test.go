package door

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/testutil"
)

// stranger is a connection from an address.
type stranger struct {
	net.Conn
	address string
	closed  atomic.Bool
}

func (s *stranger) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: net.ParseIP(s.address), Port: 1}
}

func (s *stranger) Close() error {
	s.closed.Store(true)
	if s.Conn == nil {
		return nil
	}
	return s.Conn.Close()
}

// If the hall is full, the network with the most handshakes loses one: the oldest that
// waits for its client, or else the newest.
func TestHallIsBounded(t *testing.T) {
	const limit, ofNetwork = 6, 4
	// Each word is an address, with a "!" if its handshake wants to compute.
	for name, c := range map[string]struct{ come, expelled string }{
		"room for all":                         {"a b c a b c", ""},
		"silent ones of one network":           {"a a a a a a", "1 2"},
		"one network beside others":            {"b a a a a a c", "2"},
		"the largest of several":               {"b a a a c b d d", "2 1"},
		"a stranger from each":                 {"a b c d e f g h", "1 2"},
		"those that answer stay":               {"a! a! a a a", "3"},
		"all answer: the newest":               {"a! a! a! a! a", "5"},
		"a newcomer gets room from a flood":    {"a! a! a! a! b! b! c!", "4"},
		"silent ones before those that answer": {"a! a a! a! b b b", "2"},
		"one site of IPv6":                     {"2001:db8::1 2001:db8::2 2001:db8::3 2001:db8:0:1::4 2001:db8::5 2001:db8:1::", "1"},
		"IPv4 in the form of IPv6":             {"::ffff:192.0.2.1 192.0.2.1 ::ffff:192.0.2.1 192.0.2.1 192.0.2.1 192.0.2.2", "1"},
		"addresses of IPv4 are strangers":      {"192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4 192.0.2.5 192.0.2.6", ""},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHall(2)
				h.limit, h.ofNetwork = limit, ofNetwork
				var all []*handshake
				var got []string
				for word := range strings.FieldsSeq(c.come) {
					address, computes := strings.CutSuffix(word, "!")
					if len(address) == 1 {
						address = fmt.Sprintf("192.0.2.%d", address[0])
					}
					s, expelled := h.enter(nil, &stranger{address: address})
					all = append(all, s)
					if expelled != nil {
						expelled.end()
						got = append(got, fmt.Sprint(1+slices.Index(all, expelled)))
					}
					if computes && s != expelled {
						go func() { _ = s.resume() }()
						synctest.Wait()
					}
				}
				if text := strings.Join(got, " "); text != c.expelled {
					t.Errorf("expelled %q, want %q", text, c.expelled)
				}
				for i, s := range all {
					if closed := s.conn.(*stranger).closed.Load(); closed != slices.Contains(got, fmt.Sprint(1+i)) {
						t.Errorf("the connection of handshake %d: closed %v", 1+i, closed)
					}
					s.expel()
				}
				if h.all.Len() > 0 || len(h.networks) > 0 || len(h.turns) > 0 || h.running > 0 {
					t.Errorf("left: %d handshakes, %d networks, %d turns, %d running", h.all.Len(), len(h.networks), len(h.turns), h.running)
				}
			})
		})
	}
}

// Handshakes that compute have bounded places. Networks take turns, a handshake that waits
// for its client takes none, and one that ends gives its own back.
func TestHandshakesTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHall(4)
		var mu sync.Mutex
		var running []string
		byName := make(map[string]*handshake)
		come := func(name string) {
			s, _ := h.enter(nil, &stranger{address: fmt.Sprintf("192.0.2.%d", name[0])})
			byName[name] = s
			go func() {
				if s.resume() == nil {
					mu.Lock()
					defer mu.Unlock()
					running = append(running, name)
				}
			}()
			synctest.Wait()
		}
		for _, name := range []string{"a1", "a2", "a3", "a4", "a5", "b1", "b2", "c1"} {
			come(name)
		}
		for _, step := range []struct {
			name string
			do   func(*handshake)
			want string // that got a turn so far
		}{
			{"", func(*handshake) {}, "a1 a2"}, // half of the processors
			{"a1", (*handshake).pause, "a1 a2 a3"},
			{"a1", (*handshake).pause, "a1 a2 a3"}, // it has no turn to give away
			{"a2", func(s *handshake) { s.leave() }, "a1 a2 a3 b1"},
			{"a3", (*handshake).expel, "a1 a2 a3 b1 c1"},
			{"b2", (*handshake).expel, "a1 a2 a3 b1 c1"},
			{"b1", (*handshake).pause, "a1 a2 a3 b1 c1 a4"},
			{"a4", (*handshake).pause, "a1 a2 a3 b1 c1 a4 a5"},
			{"a5", (*handshake).pause, "a1 a2 a3 b1 c1 a4 a5"},
		} {
			if s := byName[step.name]; s != nil {
				step.do(s)
			}
			synctest.Wait()
			if got := strings.Join(running, " "); got != step.want {
				t.Fatalf("after %s: %s, want %s", step.name, got, step.want)
			}
		}
		if err := byName["a2"].resume(); !errors.Is(err, errExpelled) {
			t.Errorf("a handshake that has left: %v", err)
		}
		for _, s := range byName {
			s.expel()
		}
	})
}

// A certificate that ends while its connection is open is not accepted any more.
func TestCertificateEndsOnAnOpenConnection(t *testing.T) {
	authority := testutil.NewAuthority(t)
	end := time.Now().Add(time.Hour).Truncate(time.Second)
	pair, err := tls.LoadX509KeyPair(authority.Issue("client", end))
	if err != nil {
		t.Fatal(err)
	}
	between, err := tls.LoadX509KeyPair(authority.Issue("between", end.Add(-time.Minute)))
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Settings{Source: &Fixed{}, ClientCAs: authority.Pool()})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		chain []*x509.Certificate
		now   time.Time
		want  bool
	}{
		"valid":                      {[]*x509.Certificate{pair.Leaf}, end, true},
		"ended":                      {[]*x509.Certificate{pair.Leaf}, end.Add(time.Second), false},
		"no certificate":             {nil, end.Add(time.Second), true},
		"another one of it is valid": {[]*x509.Certificate{pair.Leaf, between.Leaf}, end.Add(-time.Minute), true},
	} {
		open := &conn{}
		if !d.admits(open, c.chain, time.Now()) || d.admits(open, c.chain, c.now) != c.want {
			t.Errorf("%s: not %v", name, c.want)
		}
	}
}

// pipes is a listener of connections in memory.
type pipes struct {
	conns  chan net.Conn
	errors chan error
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c, ok := <-p.conns:
		if !ok {
			return nil, net.ErrClosed
		}
		return c, nil
	case err := <-p.errors:
		return nil, err
	}
}

func (p *pipes) Close() error   { close(p.conns); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// connect returns the client's end of a new connection.
func (p *pipes) connect(address string) net.Conn {
	near, far := net.Pipe()
	p.conns <- &stranger{Conn: far, address: address}
	return near
}

// source calls a function at each handshake.
type source struct {
	*Fixed
	called func(name string)
}

func (s *source) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	s.called(hello.ServerName)
	return s.Fixed.Certificate(hello)
}

// listen returns a listener of a door, its other side, and its log.
func listen(t *testing.T, called func(name string)) (net.Listener, *pipes, *testutil.LogBuffer) {
	t.Helper()
	own, err := ephemeral()
	if err != nil {
		t.Fatal(err)
	}
	fixed, err := NewFixed(&own)
	if err != nil {
		t.Fatal(err)
	}
	d, err := New(Settings{Source: &source{fixed, called}})
	if err != nil {
		t.Fatal(err)
	}
	var log testutil.LogBuffer
	p := &pipes{make(chan net.Conn), make(chan error)}
	return d.Listener(p, slog.New(slog.NewTextHandler(&log, nil))), p, &log
}

func shakeHands(c net.Conn, name string) error {
	return tls.Client(c, &tls.Config{InsecureSkipVerify: true, ServerName: name}).Handshake()
}

// A handshake that does not come to an end is ended, wherever it stops.
func TestSlowHandshakes(t *testing.T) {
	for name, sent := range map[string]string{
		"nothing": "", "half a header": "\x16\x03", "half a hello": "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "an endless hello": "\x16\x03\x01\x40\x00\x01\x00\xff\xff",
	} {
		synctest.Test(t, func(t *testing.T) {
			l, p, _ := listen(t, func(string) {})
			c := p.connect("192.0.2.1")
			_, err := io.WriteString(c, sent)
			begin := time.Now()
			_, read := io.Copy(io.Discard, c)
			if took := time.Since(begin); err != nil || read != nil || took != handshakeTimeout {
				t.Errorf("%s: ended after %s, %v, %v", name, took, err, read)
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A panic in a handshake, an error of the listener and a close end no other connection.
func TestListenerGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, p, _ := listen(t, func(name string) {
			if name == "hostile" {
				panic("a fault in a parser")
			}
		})
		if err := shakeHands(p.connect("192.0.2.1"), "hostile"); err == nil {
			t.Error("a handshake that panics succeeds")
		}
		accepted := make(chan net.Conn, 1)
		broken := errors.New("no files left")
		go func() {
			if _, err := l.Accept(); !errors.Is(err, broken) {
				t.Errorf("an error of the listener is %v", err)
			}
			c, err := l.Accept()
			if err != nil {
				t.Error(err)
			}
			accepted <- c
		}()
		p.errors <- broken
		c := p.connect("192.0.2.1")
		if err := shakeHands(c, "good"); err != nil {
			t.Fatal(err)
		}
		<-accepted
		under := p.connect("192.0.2.2")
		unfetched := p.connect("192.0.2.3")
		if err := shakeHands(unfetched, "good"); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]net.Conn{"under way": under, "not fetched": unfetched} {
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Errorf("%s at the end: %v", name, err)
			}
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after the end: %v", err)
		}
		synctest.Wait()
		if completed, failed, refused := l.(*listener).door.Handshakes(); completed != 2 || failed != 2 || refused != 0 {
			t.Errorf("%d completed, %d failed, %d refused", completed, failed, refused)
		}
		c.Close()
	})
}

// While the handshakes of a flood compute, one of another network has the next turn. A
// flood that does not answer makes room, which the log says once.
func TestFloodOfHandshakes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		now, most := 0, 0
		begun := make(map[string]int)
		gate := make(chan struct{})
		l, p, log := listen(t, func(name string) {
			mu.Lock()
			begun[name]++
			now++
			most = max(most, now)
			mu.Unlock()
			<-gate
			mu.Lock()
			now--
			mu.Unlock()
		})
		h := l.(*listener).door.hall
		h.places, h.limit, h.ofNetwork = 2, 60, 50
		var all sync.WaitGroup
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				all.Go(func() { _, _ = io.Copy(io.Discard, c) }) // it writes the last record of the handshake
			}
		}()
		var clients []net.Conn
		come := func(address, name string) {
			c := p.connect(address)
			clients = append(clients, c)
			all.Go(func() {
				if err := shakeHands(c, name); err != nil {
					t.Errorf("%s: %v", name, err)
				}
				_, _ = io.Copy(io.Discard, c)
			})
			synctest.Wait()
		}
		for range 40 {
			come("192.0.2.1", "flood")
		}
		come("192.0.2.2", "honest")
		// It takes some turns for the parts of its hello. First come, first served would take 40.
		for turns := 0; begun["honest"] == 0; turns++ {
			if turns == 10 {
				t.Fatalf("begun %v: the honest client has no turn", begun)
			}
			gate <- struct{}{}
			synctest.Wait()
		}
		close(gate)
		synctest.Wait()
		for range h.ofNetwork + 5 { // that say nothing
			clients = append(clients, p.connect("192.0.2.1"))
		}
		synctest.Wait()
		if completed, failed, refused := l.(*listener).door.Handshakes(); completed != 41 || failed != 0 || refused != 5 {
			t.Errorf("%d completed, %d failed, %d had to make room", completed, failed, refused)
		}
		if most != 2 || log.Count("too many TLS handshakes are in progress") != 1 {
			t.Errorf("%d computed at once. The log is\n%s", most, log.String())
		}
		for _, c := range clients {
			c.Close()
		}
		_ = l.Close()
		all.Wait()
		time.Sleep(time.Hour) // for the end of the episode
		synctest.Wait()
	})
}
