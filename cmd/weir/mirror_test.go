package main

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/weirhq/weir/internal/testutil"
)

const hash = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"

// serveAPI runs a server with documents by their escaped paths, and returns its URL.
func serveAPI(t *testing.T, documents map[string]string) string {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		text, ok := documents[r.Method+" "+r.URL.EscapedPath()]
		if status, rest, isRefusal := strings.Cut(text, "!"); ok && isRefusal {
			var code int
			_, _ = fmt.Sscan(status, &code)
			w.WriteHeader(code)
			text = fmt.Sprintf(`{"errors": [{"code": "DENIED", "message": %q}]}`, rest)
		} else if !ok {
			w.WriteHeader(http.StatusNotFound)
			text = `{"errors": [{"code": "NAME_UNKNOWN", "message": "it is not there"}]}`
		}
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(server.Close)
	return server.URL
}

// hostile is text of a stranger as JSON: it would clear the screen and turn the direction of text.
const hostile = `x\u001b[2J\u202e\u009b31m\nnext`

// Text from upstreams cannot act on a terminal, neither in a table nor in JSON.
func TestTextOfStrangersIsPrintable(t *testing.T) {
	url := serveAPI(t, map[string]string{
		"GET /api/v1/repositories":                              `{"repositories": [{"name": "mirror/` + hostile + `", "block": "` + hostile + `", "size": 1}]}`,
		"GET /api/v1/repositories/mirror%2Fapp/tags/v1":         `{"name": "mirror/app", "tag": "v1", "digest": "` + hash + `", "mediaType": "` + hostile + `", "pulls": {"total": 1, "clients": [{"client": "` + hostile + `"}]}}`,
		"GET /api/v1/repositories/mirror%2Fapp/tags/v1/history": `{"history": [{"digest": "` + hostile + `"}]}`,
		"GET /api/v1/repositories/mirror%2Fapp/manifests/" + hash: `{"name": "mirror/app", "digest": "` + hash + `", "cached": true, "layers": [{"digest": "` + hostile + `", "mediaType": "` + hostile + `"}],
			"manifests": [{"digest": "a", "platform": {"os": "` + hostile + `"}}], "referrers": [{"artifactType": "` + hostile + `"}],
			"image": {"platform": {"os": "` + hostile + `"}, "labels": {"` + hostile + `": "` + hostile + `\ud83d\ude80\udb40\udc41"}}}`,
	})
	for _, args := range [][]string{{"ls"}, {"ls", "-o", "wide"}, {"ls", "-o", "json"}, {"inspect", "mirror/app:v1"}, {"inspect", "mirror/app:v1", "-o", "json"}} {
		code, stdout, stderr := invoke(t, append(args, "--url", url)...)
		if code != exitFine || !strings.Contains(stdout, "[2J") || strings.ContainsAny(stdout+stderr, "\x1b\u202e\u009b\r") || strings.Contains(stdout, "\nnext") {
			t.Errorf("%s: %d, %q, %q", args, code, stdout, stderr)
		}
		// JSON has the same text after it was read.
		if args[len(args)-1] == "json" && args[0] == "inspect" && !strings.Contains(stdout, `"x\u001b[2J\u202e\u009b31m\nnext🚀\udb40\udc41"`) {
			t.Errorf("JSON has another text: %s", stdout)
		}
	}
}

// Each error says what to do about it.
func TestErrorsOfTheAPI(t *testing.T) {
	nobody := testutil.FreeAddr(t)
	secure := httptest.NewTLSServer(http.NotFoundHandler())
	secure.Config.ErrorLog = log.New(io.Discard, "", 0)
	defer secure.Close()
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	refusing := serveAPI(t, map[string]string{"GET /api/v1/repositories": "401!the mirror wants a login", "POST /api/v1/refresh": "403!only clients on the machine of the mirror"})
	_, port, _ := net.SplitHostPort(nobody)
	_, config := loadText(t, "[server]\nbind_address = \"127.0.0.1\"\nport = "+port+"\n")
	t.Setenv(clientPassword, "secret")
	for args, want := range map[string]string{
		"ls --url http://" + nobody:                                  "no mirror answers at http://" + nobody + ": .*connection refused. Check --url, and that the mirror runs",
		"ls --config " + config:                                      "no mirror answers at http://127.0.0.1:" + port + ", the configured or default address: .*connection refused. Start it, or name another one with --url",
		"ls --url " + secure.URL:                                     "Name the authority of its certificate with --ca",
		"ls --url " + strings.Replace(other.URL, "http", "https", 1): "Name the mirror with an http:// URL",
		"ls --url " + other.URL:                                      other.URL + ": the answer is 404 Not Found: it does not serve the API of a mirror. Name the mirror with --url",
		"ls --url " + refusing:                                       "the mirror wants a login. Log in with --username",
		"ls --username alice --url " + refusing:                      "the mirror wants a login. Check the user alice and the password in WEIR_CLIENT_PASSWORD",
		"refresh mirror/app --url " + refusing:                       "mirror/app:latest: only clients on the machine of the mirror",
		"inspect mirror/app:v1 --url " + refusing:                    "mirror/app:v1: it is not there. No repository of this name is cached: to list those that are, run weir ls",
	} {
		code, stdout, stderr := invoke(t, strings.Fields(args)...)
		if code != exitFailed || stdout != "" || !matches(stderr, want) || strings.Contains(stderr, "secret") {
			t.Errorf("%s: %d, %q, %q, want %q", args, code, stdout, stderr, want)
		}
	}
}

// matches reports whether a text has the parts of a pattern, which are separated by ".*".
func matches(text, pattern string) bool {
	for part := range strings.SplitSeq(pattern, ".*") {
		_, rest, ok := strings.Cut(text, part)
		if !ok {
			return false
		}
		text = rest
	}
	return true
}

// Wrong usage asks no mirror.
func TestUsageOfTheAPI(t *testing.T) {
	url := serveAPI(t, nil)
	for args, want := range map[string]string{
		"ls a b":                              "weir ls does not accept 2 arguments",
		"ls --sort age":                       "--sort is \"age\". It must be name, size, pulls or last",
		"ls -o yaml":                          "--output is \"yaml\". It must be wide or json",
		"ls --url mirror:8000":                "--url must be a URL such as http://mirror.internal:8000",
		"ls --url http://alice:secret@mirror": "--url must not contain a user or a password. Name the user with --username and set WEIR_CLIENT_PASSWORD",
		"inspect":                             "weir inspect does not accept 0 arguments",
		"inspect UPPER --url " + url:          `"UPPER" is not an image`,
		"inspect a -o wide":                   "--output is \"wide\". It must be json",
		"refresh a@" + hash + " --url " + url: "refresh needs an image with a tag",
	} {
		if code, stdout, stderr := invoke(t, strings.Fields(args)...); code != exitUsage || stdout != "" || !strings.Contains(stderr, want) || strings.Contains(stderr, "secret") {
			t.Errorf("%s: %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

// A list of nothing is no failure, and says so.
func TestListOfNothing(t *testing.T) {
	url := serveAPI(t, map[string]string{"GET /api/v1/repositories": `{"repositories": []}`})
	for args, want := range map[string][2]string{
		"ls":                {"", "nothing that this client may pull is cached yet\n"},
		"ls quay.io":        {"", "no cached repository that this client may pull begins with \"quay.io\"\n"},
		"ls -o json":        {"[]\n", ""},
		"ls --tags -o json": {"[]\n", ""},
	} {
		if code, stdout, stderr := invoke(t, append(strings.Fields(args), "--url", url)...); code != exitFine || stdout != want[0] || stderr != want[1] {
			t.Errorf("%s: %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

// Names are completed from the mirror. A mirror that fails offers nothing, without a word.
func TestCompletion(t *testing.T) {
	url := serveAPI(t, map[string]string{
		"GET /api/v1/repositories":                   `{"repositories": [{"name": "mirror/app", "block": "mirror"}, {"name": "other/mirror/x", "block": "other"}]}`,
		"GET /api/v1/repositories/mirror%2Fapp/tags": `{"tags": ["v1", "v2", "w"]}`,
	})
	refusing := serveAPI(t, map[string]string{"GET /api/v1/repositories": "401!no"})
	for args, want := range map[string]string{
		"ls --url " + url + " mirror/":              "mirror/app\nmirror/app:v1\nmirror/app:v2\nmirror/app:w\n:6\n",
		"inspect --url " + url + " mirror/app:v":    "mirror/app:v1\nmirror/app:v2\n:4\n",
		"refresh --url " + url + " mirror/app:x":    ":4\n",
		"warm --url " + url + " mi":                 "mirror/\n:6\n",
		"ls --sort s":                               "size\npulls\nlast\n:4\n",
		"ls --url " + refusing + " mirror/":         ":6\n",
		"ls --url " + url + " --username a mirror/": ":4\n",
		"ls --config missing.toml mirror/":          ":4\n",
	} {
		words := strings.Fields(args)
		code, stdout, stderr := invoke(t, append([]string{"__complete"}, words...)...)
		if code != exitFine || stdout != want || strings.Contains(stderr, "rror") {
			t.Errorf("%s: %d, %q, %q, want %q", args, code, stdout, stderr, want)
		}
	}
}

// The largest or latest comes first. Equal ones stay in the order of their names.
func TestListsAreSorted(t *testing.T) {
	url := serveAPI(t, map[string]string{"GET /api/v1/repositories": `{"repositories": [
		{"name": "b/1", "size": 1, "pulls": 2, "lastPull": "2026-11-27T10:00:00Z"}, {"name": "b/2", "size": 3, "pulls": 2},
		{"name": "b/3", "size": 2, "pulls": 9, "lastPull": "2026-11-27T10:00:01Z"}]}`})
	for order, want := range map[string]string{"name": "123", bySize: "231", byPulls: "312", byLast: "312"} {
		code, stdout, stderr := invoke(t, "ls", "--sort", order, "--url", url)
		var got string
		for line := range strings.Lines(stdout) {
			if _, rest, ok := strings.Cut(line, "b/"); ok {
				got += rest[:1]
			}
		}
		if code != exitFine || stderr != "" || got != want {
			t.Errorf("%s: %d, %s, %s, want the order %s", order, code, stdout, stderr, want)
		}
	}
}

// Errors of Windows end with a period, and the advice begins a new sentence.
func TestErrorsOfWindows(t *testing.T) {
	at := &mirror{url: &url.URL{Scheme: "http", Host: "mirror.example:8000"}, isNamed: true}
	refused := &net.OpError{Op: "dial", Net: "tcp", Err: errors.New("the target machine actively refused it.")}
	const want = "no mirror answers at http://mirror.example:8000: dial tcp: the target machine actively refused it. Check --url and the network"
	if err := at.explain(refused); err.Error() != want || !errors.Is(err, refused) {
		t.Errorf("%q, want %q", err, want)
	}
	if text := at.explain(errors.New("x509: certificate is valid for \x1b]0;title\x07, not mirror")).Error(); strings.ContainsAny(text, "\x1b\x07") {
		t.Errorf("a terminal gets %q", text)
	}
}
