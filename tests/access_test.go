package tests

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"

	"github.com/weirhq/weir/internal/testutil"
	"github.com/weirhq/weir/tests/harness"
	"github.com/weirhq/weir/upstream/upstreamtest"
)

// A locked mirror serves its users, of a file that htpasswd(1) writes and of the
// configuration, and no one else. Users come and go while it runs. Credentials of clients
// reach neither upstreams nor the log.
func TestAccess(t *testing.T) {
	t.Parallel()
	htpasswd := testutil.Program(t, "htpasswd", "apache2-utils")
	users := filepath.Join(t.TempDir(), "htpasswd")
	set := func(args ...string) {
		t.Helper()
		harness.Run(t, exec.Command(htpasswd, args...))
	}
	set("-b", "-B", "-c", users, "alice", "alices-word")
	r := upstreamtest.New(t, upstreamtest.WithBasic("reader", "upstreams-word"))
	r.AddImage("org/app", "v1", []byte("a layer"))
	hash := harness.Run(t, func() *exec.Cmd {
		cmd := exec.Command(harness.Binary(t), "auth", "hash")
		cmd.Stdin = strings.NewReader("cis-word\n")
		return cmd
	}())
	config := func(more string) string {
		return "[auth]\nhtpasswd = \"" + users + "\"\n" + more + "[auth.identity.ci]\nusername = \"robot\"\npassword = \"" + strings.TrimSpace(hash) + "\"\n" +
			blockOf("up", nil, at(r, `username = "reader"`, `password = "upstreams-word"`))
	}
	w := harness.StartWeir(t, config(""))
	get := func(path, user, password string) harness.Answer {
		t.Helper()
		if user == "" {
			return w.Get(t, path)
		}
		req, err := http.NewRequest("GET", "/", nil)
		harness.Must(t, err)
		req.SetBasicAuth(user, password)
		return w.Get(t, path, "Authorization", req.Header.Get("Authorization"))
	}
	image := manifestPath("up/org/app", "v1")
	for _, c := range []struct {
		path, user, password string
		want                 int
	}{
		{"/v2/", "", "", 401}, {image, "", "", 401}, {"/v2/nowhere/app/tags/list", "", "", 401}, {"/v2/_catalog", "", "", 401}, {"/metrics", "", "", 401}, {"/", "", "", 401},
		{"/healthz", "", "", 200}, {"/readyz", "", "", 200},
		{image, "alice", "a-guess", 401}, {image, "mallory", "alices-word", 401}, {"/metrics", "alice", "a-guess", 401},
		{"/v2/", "alice", "alices-word", 200}, {image, "alice", "alices-word", 200}, {image, "robot", "cis-word", 200},
		{"/metrics", "robot", "cis-word", 200}, {"/", "alice", "alices-word", 200}, {"/v2/nowhere/app/tags/list", "alice", "alices-word", 404},
	} {
		a := get(c.path, c.user, c.password)
		if a.Status != c.want || (c.want == 401) != (a.Header.Get("WWW-Authenticate") == `Basic realm="Weir"`) {
			t.Errorf("%s as %s with %s: %d %v", c.path, c.user, c.password, a.Status, a.Header)
		}
	}
	eventually := func(condition string, want int, user, password string) {
		t.Helper()
		harness.Eventually(t, condition, func() bool { return get(image, user, password).Status == want })
	}
	set("-b", "-B", users, "bob", "bobs-word")
	eventually("a new user is let in", 200, "bob", "bobs-word")
	set("-b", "-B", users, "alice", "alices-new-word")
	eventually("a changed password ends the old one", 401, "alice", "alices-word")
	set("-D", users, "bob")
	eventually("a removed user is refused", 401, "bob", "bobs-word")

	// A broken file changes nothing, and the log says so once.
	before, err := os.ReadFile(users)
	harness.Must(t, err)
	harness.WriteFile(t, users, string(before)+"eve:{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=\n")
	w.Logs(t, "the changed configuration cannot be used", `the password of \"eve\" is not a bcrypt or Argon2 hash`)
	eventually("the old users stay", 200, "alice", "alices-new-word")
	if got := w.Log.Count("the changed configuration cannot be used"); got != 1 {
		t.Errorf("%d lines about the broken file", got)
	}
	// The last user may be removed.
	harness.WriteFile(t, users, "")
	eventually("the file is empty", 401, "alice", "alices-new-word")
	eventually("the configuration's user stays", 200, "robot", "cis-word")
	harness.WriteFile(t, w.Config, config("anonymous = true\n"))
	eventually("clients without credentials are let in", 200, "", "")
	eventually("wrong ones are not", 401, "alice", "a-guess")

	for _, sent := range r.Authorizations() {
		if sent != "" && sent != basicOf("reader:upstreams-word") {
			t.Errorf("the upstream got %q", sent)
		}
	}
	metrics := string(get("/metrics", "robot", "cis-word").Body)
	for _, secret := range []string{"alices-word", "cis-word", "a-guess", "bobs-word", "$argon2", "$2y$", "upstreams-word", "mallory"} {
		if strings.Contains(w.Log.String(), secret) || strings.Contains(metrics, secret) {
			t.Errorf("the log or the metrics hold %q", secret)
		}
	}
	w.Logs(t, `"msg":"request"`, `"user":"alice"`, `"status":200`)
	w.Logs(t, `"msg":"request"`, `"status":401`, "wrong password")
	// Guesses at the pages, too. A browser begins without credentials, which is none.
	w.Logs(t, `"level":"INFO"`, `"path":"/metrics"`, `"status":401`, `"error":"the credentials of the request are not valid (password: wrong password)"`)
	w.Logs(t, `"level":"DEBUG"`, `"path":"/metrics"`, `"status":401`)
	w.Logs(t, `"level":"DEBUG"`, `"path":"/metrics"`, `"status":200`, `"user":"robot"`)
}

// No header and no query of a client's credentials reaches an upstream, its token service or its
// CDN, whether the mirror asks for them or not: dockerd sends an open mirror the password of Docker
// Hub. Upstreams get the credentials of the configuration.
func TestCredentialsOfClientsStay(t *testing.T) {
	t.Parallel()
	upstreams := map[string]*upstreamtest.Registry{
		"open": upstreamtest.New(t), "basic": upstreamtest.New(t, upstreamtest.WithBasic("reader", "upstreams-word")),
		"token": upstreamtest.New(t, upstreamtest.WithBearer(upstreamtest.Bearer{Username: "reader", Password: "upstreams-word"}), upstreamtest.WithCDN(upstreamtest.CDN{})),
	}
	layers := make(map[string]string) // paths
	blocks := ""
	for key, r := range upstreams {
		image := r.AddImage("org/app", "v1", []byte("a layer of "+key))
		r.AddReferrer("org/app", image, "application/x", []byte("a referrer"))
		layers[key] = blobPath(key+"/org/app", digest.FromString("a layer of "+key))
		settings := []string{}
		if key != "open" {
			settings = []string{`username = "reader"`, `password = "upstreams-word"`}
		}
		blocks += blockOf(key, nil, at(r, settings...))
	}
	const word = "canary-of-the-client"
	for name, auth := range map[string]string{
		"an open mirror": "", "a locked one": "[auth.identity.alice]\nusername = \"alice\"\npassword = \"$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO\"\n",
	} {
		w := harness.StartWeir(t, auth+blocks)
		right := basicOf("alice:secret") // at an open mirror, any
		for _, authorization := range []string{right, basicOf("hub-user:" + word), "Bearer " + word} {
			status := http.StatusOK
			if auth != "" && authorization != right {
				status = http.StatusUnauthorized
			}
			for key, layer := range layers {
				query := "?token=" + word + "&account=" + word
				headers := []string{"Authorization", authorization, "Cookie", "session=" + word, "Proxy-Authorization", "Basic " + word, "X-Registry-Auth", word, "X-Forwarded-User", word}
				for _, path := range []string{"/v2/", manifestPath(key+"/org/app", "v1") + query, layer + query, "/v2/" + key + "/org/app/tags/list" + query} {
					expect(t, name+": "+path, w.Get(t, path, headers...), status, "")
				}
				w.Get(t, manifestPath(key+"/org/app", "missing-"+key)+query, headers...)
				w.Get(t, "/v2/"+key+"/org/app/referrers/"+digest.FromString(word).String()+query, headers...)
			}
		}
	}
	for key, r := range upstreams {
		asked := r.Log()
		if len(asked) < 8 {
			t.Errorf("%s was asked %d times only", key, len(asked))
		}
		for _, request := range asked {
			if all := fmt.Sprint(request.URI, request.Header); strings.Contains(all, word) || strings.Contains(all, basicOf("alice:secret")) || strings.Contains(all, basicOf("hub-user:"+word)) {
				t.Errorf("%s got %s", key, all)
			}
		}
	}
}

// weir warm logs in to a locked mirror.
func TestWarmLogsIn(t *testing.T) {
	t.Parallel()
	r := upstreamtest.New(t)
	r.AddImage("org/app", "v1", []byte("a layer"))
	w := harness.StartWeir(t, "[auth.identity.ci]\nusername = \"ci\"\npassword = \"$2y$04$ZkkRpqt6Q3FO3dlJn5shZug3I01Ux8qbfEqg9sTJyuFToppegINrO\"\n"+blockOf("up", nil, at(r)))
	for password, want := range map[string]int{"secret": 0, "guess": 1, "": 1} {
		args := []string{"warm", "--url", w.URL, "up/org/app:v1"}
		if password != "" {
			args = append(args, "--username", "ci")
		}
		cmd := exec.Command(harness.Binary(t), args...)
		cmd.Env = append(os.Environ(), "WEIR_CLIENT_PASSWORD="+password)
		out, err := cmd.CombinedOutput()
		if (err == nil) != (want == 0) || password != "" && strings.Contains(string(out), password) {
			t.Errorf("%q: %v, %s", password, err, out)
		}
	}
}
