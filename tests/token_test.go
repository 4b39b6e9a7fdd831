package tests

import (
	"bufio"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/tokencache/redistest"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

const (
	username = "robot-account"
	password = "p4ss-of-the-robot"
)

// sharing is an upstream that wants tokens, and a configuration for mirrors of
// it that share them through Redis.
type sharing struct {
	*upstreamtest.Registry
	config string
	blobs  int
}

func newSharing(t *testing.T, redisURL string) *sharing {
	t.Helper()
	upstream := upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{Username: username, Password: password}))
	return &sharing{Registry: upstream, config: fmt.Sprintf("[cache.redis]\nurl = %q\nkey_prefix = \"weir-test\"\n", redisURL) +
		blockOf("mirror", nil, at(upstream, fmt.Sprintf("username = %q\npassword = %q", username, password)))}
}

// add puts one more blob into a repository.
func (s *sharing) add(repo string) digest.Digest {
	s.blobs++
	return s.AddBlob(repo, fmt.Append(nil, "blob ", s.blobs))
}

// pull pulls a new blob of a repository through a mirror and returns how many
// token requests that caused.
func (s *sharing) pull(t *testing.T, label string, w *harness.Weir, repo string) int {
	t.Helper()
	before := len(s.TokenRequests())
	dgst := s.add(repo)
	expectContent(t, label, w.Get(t, blobPath("mirror/"+repo, dgst)), dgst, statusStored)
	return len(s.TokenRequests()) - before
}

// expectPull is pull with the number of token requests that it may cause.
func (s *sharing) expectPull(t *testing.T, label string, w *harness.Weir, repo string, want int) {
	t.Helper()
	if got := s.pull(t, label, w, repo); got != want {
		t.Errorf("%s: %d token requests, want %d", label, got, want)
	}
}

// sharesAgain waits until a token that one mirror has acquired reaches another
// one.
func (s *sharing) sharesAgain(t *testing.T, one, other *harness.Weir) {
	t.Helper()
	harness.Eventually(t, "tokens are shared again", func() bool {
		repo := fmt.Sprint("org/again", s.blobs) // never used before
		s.pull(t, "one", one, repo)
		return s.pull(t, "other", other, repo) == 0
	})
}

// A token that one mirror has acquired costs another one no request.
func TestTokensAreShared(t *testing.T) {
	t.Parallel()
	redis := redistest.Start(t)
	s := newSharing(t, redis.URL())
	one, other := harness.StartWeir(t, s.config), harness.StartWeir(t, s.config)
	s.expectPull(t, "first", one, "org/app", 1)
	s.expectPull(t, "first, again", one, "org/app", 0)
	s.expectPull(t, "second", other, "org/app", 0)
	if got := other.Metric(t, "weir_token_cache_total", "layer", "redis", "result", "hit"); got != 1 {
		t.Errorf("Redis had a token %v times, want once", got)
	}
	if got := other.Metric(t, "weir_token_requests_total"); got != 0 {
		t.Errorf("weir_token_requests_total is %v", got)
	}
	// Another repository is another scope.
	s.expectPull(t, "another repository", other, "org/other", 1)

	// A token that is refused is replaced once, for both.
	s.RevokeTokens()
	s.expectPull(t, "revoked", one, "org/app", 1)
	s.expectPull(t, "replaced", one, "org/app", 0)
	s.expectPull(t, "replaced by the other one", other, "org/app", 0)
}

// promptly fails the test if a pull waits for Redis for longer than it should,
// half a second. A machine may be busy.
func (s *sharing) promptly(t *testing.T, label string, w *harness.Weir, repo string, want int) {
	t.Helper()
	start := time.Now()
	s.expectPull(t, label, w, repo, want)
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("%s: the pull took %s", label, took)
	}
}

// Redis only helps: without it, mirrors go on with the tokens in
// their memory, and when it is back they share again by themselves.
func TestRedisFails(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name       string
		fail, mend func(*redistest.Server)
	}{
		{"dead", (*redistest.Server).Stop, (*redistest.Server).Restart},
		{"frozen", (*redistest.Server).Pause, (*redistest.Server).Resume},
	} {
		t.Run(c.name+" at start", func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			s := newSharing(t, redis.URL())
			c.fail(redis)
			one, other := harness.StartWeir(t, s.config), harness.StartWeir(t, s.config)
			s.promptly(t, "one", one, "org/app", 1)
			s.promptly(t, "one, again", one, "org/app", 0)
			s.promptly(t, "other", other, "org/app", 1)
			expect(t, "ready", one.Get(t, "/readyz"), http.StatusOK, "")
			c.mend(redis)
			s.sharesAgain(t, one, other)
		})
		t.Run(c.name+" in the middle", func(t *testing.T) {
			t.Parallel()
			redis := redistest.Start(t)
			s := newSharing(t, redis.URL())
			one, other := harness.StartWeir(t, s.config), harness.StartWeir(t, s.config)
			s.promptly(t, "before", one, "org/app", 1)
			s.promptly(t, "before, other", other, "org/app", 0)
			c.fail(redis)
			s.promptly(t, "a token in memory", one, "org/app", 0)
			s.promptly(t, "a new token", one, "org/new", 1)
			s.promptly(t, "a new token, again", one, "org/newer", 1)
			s.promptly(t, "a new token, other", other, "org/new", 1)
			c.mend(redis)
			s.sharesAgain(t, one, other)
		})
	}
}

// Credentials appear in nothing that people, Prometheus or Redis get to see.
func TestSecretsStaySecret(t *testing.T) {
	t.Parallel()
	const redisPassword = "p4ss-of-redis"
	redis := redistest.Start(t)
	conversation := redisCommands(t, redis.Addr(), "CONFIG SET requirepass "+redisPassword)
	if !strings.Contains(conversation, "+OK") {
		t.Fatalf("Redis says %q", conversation)
	}
	s := newSharing(t, strings.Replace(redis.URL(), "redis://", "redis://:"+redisPassword+"@", 1))
	basic := upstreamtest.New(t, upstreamtest.WithBasic(username, password))
	blob := basic.AddBlob("org/app", []byte("behind Basic"))
	wrong := fmt.Sprintf("username = %q\npassword = %q", username, password+"-wrong")
	config := s.config +
		blockOf("basic", nil, at(basic, fmt.Sprintf("username = %q\npassword = %q", username, password))) +
		blockOf("denied", nil, at(s.Registry, wrong)) + blockOf("denied-basic", nil, at(basic, wrong)) +
		blockOf("proxied", nil, at(s.Registry, `proxy = "http://`+username+":"+password+`@127.0.0.1:1"`))
	w := harness.StartWeir(t, config)
	s.expectPull(t, "shared", w, "org/app", 1)
	expectContent(t, "basic", w.Get(t, blobPath("basic/org/app", blob)), blob, statusStored)
	var answers strings.Builder
	for _, name := range []string{"denied", "denied-basic", "proxied"} {
		a := w.Get(t, manifestPath(name+"/org/app", "v1"))
		if a.Status < 400 {
			t.Errorf("%s: %d", name, a.Status)
		}
		answers.Write(a.Body)
	}
	if got := w.Metric(t, "weir_token_cache_total", "layer", "redis", "result", "error"); got != 0 {
		t.Errorf("Redis failed %v times", got)
	}
	keys := redisCommands(t, redis.Addr(), "AUTH "+redisPassword, "KEYS *")
	if !strings.Contains(keys, "weir-test") {
		t.Errorf("the keys in Redis do not begin with key_prefix: %q", keys)
	}
	redis.Stop()
	s.expectPull(t, "without Redis", w, "org/other", 1)
	check, err := exec.Command(harness.Binary(t), "check", "--config", filepath.Join(filepath.Dir(w.Config), "base.toml"), "--config", w.Config).CombinedOutput()
	if err != nil {
		t.Errorf("check: %v\n%s", err, check)
	}
	harness.WriteFile(t, w.Config, strings.Replace(config, "key_prefix", "key_prefiks", 1)+"\nnonsense = \""+password+"\"\n")
	w.Logs(t, "the changed configuration cannot be used", "key_prefiks")

	for where, text := range map[string]string{
		"the log": w.Log.String(), "/metrics": string(w.Get(t, "/metrics").Body), "check's output": string(check),
		"Redis's key names": keys, "an error": answers.String(), "the data": everything(t, w.Data),
	} {
		for label, secret := range map[string]string{
			"the upstream's password": password, "Redis's password": redisPassword, "a token": "token-1",
			"the Authorization header": base64.StdEncoding.EncodeToString([]byte(username + ":" + password)),
		} {
			if strings.Contains(text, secret) {
				t.Errorf("%s holds %s:\n%s", where, label, text)
			}
		}
	}
}

// everything returns the content of all files below a directory.
func everything(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		all.Write(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}

// redisCommands sends commands to a Redis and returns all that it says.
func redisCommands(t *testing.T, addr string, commands ...string) string {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, strings.Join(append(commands, "QUIT"), "\r\n")+"\r\n"); err != nil {
		t.Fatal(err)
	}
	said, err := io.ReadAll(bufio.NewReader(conn))
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}
