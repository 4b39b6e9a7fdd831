package api

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/namespace/traffic"
)

// follow begins a stream, and returns its answer, which may be read when ended is closed.
func (m *mirror) follow(t *testing.T, header ...string) (answer *httptest.ResponseRecorder, ended <-chan struct{}) {
	t.Helper()
	answer = httptest.NewRecorder()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, Prefix+"events", nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.ServeHTTP(answer, r)
	}()
	synctest.Wait()
	return answer, done
}

// following runs a test in fake time with a mirror that remembers requests.
func following(t *testing.T, test func(t *testing.T, m *mirror, recent *traffic.Recent)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m, recent := newMirror(t), traffic.NewRecent()
		m.opts.Recent = recent
		test(t, m, recent)
		m.Close()
	})
}

var pulled = traffic.Request{Method: "GET", Repository: "a/app", Reference: "v1", Status: 200, ID: repositoryOf("a/app").ID}

// A stream tells what changes, nothing twice, and ends with the mirror.
func TestEvents(t *testing.T) {
	following(t, func(t *testing.T, m *mirror, recent *traffic.Recent) {
		m.hidden = "b/secret"
		recent.Add(pulled) // before the stream
		answer, ended := m.follow(t)
		time.Sleep(3 * eventPause)
		recent.Add(pulled)
		hidden := pulled
		hidden.Repository, hidden.ID = "b/secret", repositoryOf("b/secret").ID
		recent.Add(hidden)
		time.Sleep(3 * eventPause)
		m.Close()
		<-ended
		body := answer.Body.String()
		for text, want := range map[string]int{"event: status\n": 1, "event: downloads\n": 1, "event: requests\n": 1, "a/app": 1, "secret": 0, "retry: ": 1, "id: 3\n": 1} {
			if n := strings.Count(body, text); n != want {
				t.Errorf("%q comes %d times, want %d, in %s", text, n, want, body)
			}
		}
		if answer.Header().Get("Content-Type") != "text/event-stream" || answer.Header().Get("Cache-Control") != "no-store" || !answer.Flushed {
			t.Errorf("%v", answer.Header())
		}
	})
}

// A stream ends after a minute, and the next one goes on where it ended.
func TestStreamsGoOn(t *testing.T) {
	following(t, func(t *testing.T, m *mirror, recent *traffic.Recent) {
		answer, ended := m.follow(t)
		begun := time.Now()
		<-ended
		if took := time.Since(begun); took > streamTime || !strings.Contains(answer.Body.String(), ": alive\n\n") {
			t.Errorf("after %s: %s", took, answer.Body)
		}
		recent.Add(pulled)
		for id, want := range map[string]int{"0": 1, "1": 0, "": 0, "99": 0, "x": 0} {
			answer, ended := m.follow(t, "Last-Event-ID", id)
			<-ended
			if n := strings.Count(answer.Body.String(), "event: requests\n"); n != want {
				t.Errorf("behind %q: %d", id, n)
			}
		}
		if w := m.get(t, "events?x=1"); w.Code != http.StatusBadRequest {
			t.Errorf("a parameter: %d", w.Code)
		}
		if w := m.do(t, http.MethodHead, "events"); w.Code != http.StatusOK || w.Body.Len() != 0 {
			t.Errorf("HEAD: %d %s", w.Code, w.Body)
		}
	})
}

// Streams are bounded, also those of one network, and all of them look at the mirror together.
func TestStreamsAreBounded(t *testing.T) {
	following(t, func(t *testing.T, m *mirror, _ *traffic.Recent) {
		var all []<-chan struct{}
		own := m.opts.Address
		for i := range maxStreams {
			m.opts.Address = func(*http.Request) netip.Addr {
				return netip.AddrFrom4([4]byte{192, 0, 2, byte(i / maxStreamsOfNetwork)})
			}
			_, ended := m.follow(t)
			all = append(all, ended)
			if i == maxStreamsOfNetwork-1 {
				if answer, _ := m.follow(t); answer.Code != http.StatusServiceUnavailable {
					t.Errorf("one more of a network: %d", answer.Code)
				}
			}
		}
		m.opts.Address = own
		time.Sleep(10 * eventPause)
		if w := m.get(t, "events"); w.Code != http.StatusServiceUnavailable || w.Header().Get("Retry-After") == "" {
			t.Errorf("one more: %d", w.Code)
		}
		if n := m.counted.looks.Load(); n == 0 || n > 25 {
			t.Errorf("%d looks in ten seconds", n)
		}
		m.Close()
		for _, ended := range all {
			<-ended
		}
		if answer, ended := m.follow(t); answer.Code != http.StatusOK {
			t.Errorf("a place is not free: %d", answer.Code)
		} else {
			<-ended
		}
	})
}
