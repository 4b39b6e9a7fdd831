package credhelper_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirhq/weir/internal/credhelper"
	"github.com/weirhq/weir/internal/testutil"
)

// script writes a helper, which notes each run in a file beside it.
func script(t *testing.T, body string) (path string, runs func() []string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "docker-credential-test")
	text := "#!/bin/sh\nread -r server\necho \"$1 $server\" >> \"$0.runs\"\n" + body
	if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
		t.Fatal(err)
	}
	return path, func() []string {
		noted, _ := os.ReadFile(path + ".runs")
		return strings.Split(strings.TrimSuffix(string(noted), "\n"), "\n")
	}
}

const works = `echo '{"ServerURL":"x","Username":"AWS","Secret":"s3cret"}'`

func TestAnswers(t *testing.T) {
	for name, c := range map[string]struct {
		body    string
		want    string // username and password; empty: an error
		message string // that the error has
	}{
		"an answer":                 {works, "AWS s3cret", ""},
		"an answer with more":       {`echo '{"Username":"u","Secret":"p","Extra":{"a":[1]}}'; echo noise >&2`, "u p", ""},
		"a failure after an answer": {works + "; exit 1", "", "exit status 1"},
		"not found":                 {"echo credentials not found in native keychain; exit 1", "", "credentials not found in native keychain"},
		"a secret in a failure":     {"echo s3cret; echo s3cret >&2; exit 2", "", "exit status 2"},
		"no JSON":                   {"echo s3cret", "", "its answer is not JSON with a Username and a Secret"},
		"JSON of another kind":      {`echo '["s3cret"]'`, "", "its answer is not JSON"},
		"no secret":                 {`echo '{"Username":"s3cret"}'`, "", "its answer is not JSON"},
		"no username":               {`echo '{"Secret":"s3cret"}'`, "", "its answer is not JSON"},
		"two answers":               {works + "\n" + works, "", "its answer is not JSON"},
		"nothing":                   {"", "", "its answer is not JSON"},
		"an identity token":         {`echo '{"Username":"<token>","Secret":"s3cret"}'`, "<token> s3cret", ""},
		"an endless answer":         {"exec yes s3cret", "", "exceeds 65536 bytes"},
		"killed":                    {"kill -9 $$", "", "signal: killed"},
	} {
		t.Run(name, func(t *testing.T) {
			path, runs := script(t, c.body)
			log := new(testutil.LogBuffer)
			helper := credhelper.New(path, "registry.test:5000", time.Hour, slog.New(slog.NewTextHandler(log, nil)))
			login, err := helper.Get(t.Context())
			switch failed, ok := errors.AsType[*credhelper.Error](err); {
			case c.want != "" && (err != nil || login.Username+" "+login.Password != c.want || login.Identity != strings.HasPrefix(c.want, "<")):
				t.Errorf("got %+v, %v", login, err)
			case c.want == "" && (!ok || !strings.Contains(failed.Error(), c.message) || failed.Program != path):
				t.Errorf("the error is %v", err)
			}
			if got := runs(); len(got) != 1 || got[0] != "get registry.test:5000" {
				t.Errorf("the runs are %q", got)
			}
			if err != nil && strings.Contains(err.Error(), "s3cret") || strings.Contains(log.String(), "s3cret") {
				t.Errorf("the secret shows: %v\n%s", err, log)
			}
			if (c.want == "") != strings.Contains(log.String(), "returned no password") {
				t.Errorf("the log says %s", log)
			}
		})
	}
}

func TestProgramThatIsMissing(t *testing.T) {
	helper := credhelper.New("no-such-helper", "registry.test", time.Hour, slog.New(slog.DiscardHandler))
	_, err := helper.Get(t.Context())
	if _, ok := errors.AsType[*credhelper.Error](err); !ok || !strings.Contains(err.Error(), "docker-credential-no-such-helper") {
		t.Errorf("the error is %v", err)
	}
}

// A helper that hangs is killed, with its children.
func TestHelperThatHangs(t *testing.T) {
	if testing.Short() {
		t.Skip("takes ten seconds")
	}
	path, _ := script(t, "sleep 1000 & echo $! > \"$0.child\"; wait")
	start := time.Now()
	_, err := credhelper.New(path, "registry.test", time.Hour, slog.New(slog.DiscardHandler)).Get(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no answer within 10s") || time.Since(start) > 15*time.Second {
		t.Errorf("after %s: %v", time.Since(start), err)
	}
	child, _ := os.ReadFile(path + ".child")
	// It was sent a signal, and ends when it runs the next time.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(child)) + "/stat")
		if err != nil || strings.Contains(string(state), ") Z ") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("its child runs on: %s", state)
		}
	}
}

// An answer is kept for its time, unless it is denied. Callers share a run, also one that
// fails.
func TestAnswersAreKept(t *testing.T) {
	path, runs := script(t, `if [ -e "$0.broken" ]; then exit 1; fi; `+works)
	broken := path + ".broken"
	synctest.Test(t, func(t *testing.T) {
		helper := credhelper.New(path, "registry.test", 30*time.Minute, slog.New(slog.DiscardHandler))
		get := func(step string, works bool, want int) *credhelper.Login {
			t.Helper()
			var all sync.WaitGroup
			var last *credhelper.Login
			var mu sync.Mutex
			for range 10 {
				all.Go(func() {
					login, err := helper.Get(t.Context())
					if (err == nil) != works {
						t.Errorf("%s: %v", step, err)
					}
					mu.Lock()
					defer mu.Unlock()
					last = login
				})
			}
			all.Wait()
			if got := len(runs()); got != want {
				t.Errorf("%s: %d runs, want %d", step, got, want)
			}
			return last
		}
		first := get("the first", true, 1)
		time.Sleep(29 * time.Minute)
		get("within its time", true, 1)
		time.Sleep(time.Minute)
		second := get("after its time", true, 2)
		if !second.Fresh() || first.Fresh() {
			t.Error("the age of the answers is wrong")
		}
		helper.Denied(first)
		get("another one was denied", true, 2)
		helper.Denied(second)
		get("denied", true, 3)

		if err := os.WriteFile(broken, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		time.Sleep(30 * time.Minute)
		last := get("a failure leaves the last answer", true, 4)
		time.Sleep(4 * time.Second)
		get("a failure is not repeated at once", true, 4)
		time.Sleep(time.Second)
		get("but after a pause", true, 5)
		helper.Denied(last)
		get("denied, and no other one", false, 6)
		get("once for all", false, 6)
		if err := os.Remove(broken); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		get("it works again", true, 7)
	})
}

// A caller that leaves does not end the run that the others wait for.
func TestCallerLeaves(t *testing.T) {
	path, runs := script(t, "sleep 0.5; "+works)
	helper := credhelper.New(path, "registry.test", time.Hour, slog.New(slog.DiscardHandler))
	leaving, leave := context.WithCancel(t.Context())
	var all sync.WaitGroup
	all.Go(func() { _, _ = helper.Get(leaving) })
	for len(runs()[0]) == 0 {
		time.Sleep(10 * time.Millisecond)
	}
	all.Go(func() {
		if login, err := helper.Get(t.Context()); err != nil || login.Password != "s3cret" {
			t.Errorf("got %+v, %v", login, err)
		}
	})
	leave()
	all.Wait()
	if got := runs(); len(got) != 1 {
		t.Errorf("the runs are %q", got)
	}
}

func TestCheck(t *testing.T) {
	for helper, want := range map[string]string{
		"ecr-login": "docker-credential-ecr-login", "gcr": "docker-credential-gcr", "osxkeychain.v2": "docker-credential-osxkeychain.v2",
		"/usr/local/bin/docker-credential-x": "/usr/local/bin/docker-credential-x", "/opt/get password": "/opt/get password",
	} {
		if err := credhelper.Check(helper); err != nil || credhelper.Program(helper) != want {
			t.Errorf("%q: %v, %s", helper, err, credhelper.Program(helper))
		}
	}
	for _, helper := range []string{"", "bin/helper", "./helper", "../helper", "/usr/../bin/x", "/usr/bin/", "a b", "a;b", "-x", "$(x)", "helper\n", "/bin/\x00x", "..", "ecr login"} {
		if credhelper.Check(helper) == nil {
			t.Errorf("%q is accepted", helper)
		}
	}
}
