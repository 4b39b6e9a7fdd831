// Package credhelper gets passwords from credential helpers of Docker: programs that
// know how to get a password for a registry, such as docker-credential-ecr-login.
//
// A helper is run as "docker-credential-NAME get" with the name of a server on its
// standard input. It answers with JSON on its standard output
// (https://github.com/docker/docker-credential-helpers).
package credhelper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"github.com/weirhq/weir/internal/episode"
)

const (
	// timeout bounds a run. Helpers of clouds ask a service, which takes a second.
	timeout = 10 * time.Second
	// leave is the time for the pipes of a killed helper to close, if its children hold
	// them.
	leave = time.Second
	// maxOutput bounds the answer. Passwords of clouds have some KiB.
	maxOutput = 64 << 10
	// pause is the time after a failure for which the helper is not run again: each
	// request would start a process.
	pause = 5 * time.Second
	// fresh is the age up to which a refused password counts as refused for good. Those
	// of clouds live for an hour and more, so an older one may have expired.
	fresh = time.Minute
)

var name = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// errName continues a sentence about the name of a helper.
var errName = errors.New(`must be the name of a helper, such as "ecr-login" for docker-credential-ecr-login, or the absolute path of a program`)

// Check returns an error for a name that is neither one for the PATH nor an absolute path.
func Check(helper string) error {
	if filepath.IsAbs(helper) && filepath.Clean(helper) == helper && !strings.ContainsRune(helper, 0) || name.MatchString(helper) {
		return nil
	}
	return errName
}

// Program returns the program of a helper: docker-credential-NAME, or the path as it is.
func Program(helper string) string {
	if filepath.IsAbs(helper) {
		return helper
	}
	return "docker-credential-" + helper
}

// Error says that a helper gave no password. It holds no output of the helper, which may
// be a secret, except for messages that the protocol defines.
type Error struct {
	Program string
	Err     error
}

func (e *Error) Error() string { return e.Program + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Login is a helper's answer. It is not changed.
type Login struct {
	Username string
	Password string // or a token
	// Identity says that Password is a token that a token service takes in place of a
	// username and a password, and no registry does.
	Identity bool
	issued   time.Time
}

// Fresh reports whether a refusal of the login cannot mean that it has expired.
func (l *Login) Fresh() bool { return time.Since(l.issued) < fresh }

// Helper gets passwords for one server from a program, and keeps the last one. All
// methods may be called concurrently.
type Helper struct {
	program, server string
	ttl             time.Duration
	logger          *slog.Logger
	slot            chan struct{} // holds a value while the program runs
	last            atomic.Pointer[result]
	trouble         *episode.Episode // for the log
}

// result is the end of a run.
type result struct {
	login *Login // nil if there is none
	err   error
	until time.Time // from which on the program is run again
}

// New returns a Helper whose answers hold for a while. Nothing is run yet.
func New(helper, server string, ttl time.Duration, logger *slog.Logger) *Helper {
	h := &Helper{program: Program(helper), server: server, ttl: ttl, logger: logger, slot: make(chan struct{}, 1)}
	h.trouble = episode.New(pause, func() { logger.Info("the credential helper works again", "program", h.program, "server", h.server) })
	return h
}

// Name returns the program and its server, to tell helpers apart.
func (h *Helper) Name() string { return h.program + " " + h.server }

// Get returns the last answer, or a new one if that is too old. All callers share one
// run, which outlives them. If a new answer cannot be had, the last one is returned for
// as long as no server denies it. Get returns an *Error if there is none, and the cause of
// ctx if that ends before.
func (h *Helper) Get(ctx context.Context) (*Login, error) {
	if r := h.last.Load(); r.holds() {
		return r.login, r.err
	}
	select {
	case h.slot <- struct{}{}:
		defer func() { <-h.slot }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	before := h.last.Load()
	if before.holds() { // another caller has run it meanwhile
		return before.login, before.err
	}
	login, err := h.run(context.WithoutCancel(ctx))
	next := &result{login: login, err: err, until: time.Now().Add(h.ttl)}
	if err != nil {
		next.until = time.Now().Add(pause)
		if before != nil && before.login != nil {
			next.login, next.err = before.login, nil
		}
		if h.trouble.Bad() {
			h.logger.Warn("the credential helper returned no password. Run `echo SERVER | PROGRAM get` as the user of Weir to see why",
				"program", h.program, "server", h.server, "error", err, "last_password_in_use", next.login != nil)
		}
	} else {
		h.trouble.Good()
	}
	h.last.Store(next)
	return next.login, next.err
}

func (r *result) holds() bool { return r != nil && time.Now().Before(r.until) }

// Denied notes that a server denied a login, which is then not used again.
func (h *Helper) Denied(login *Login) {
	r := h.last.Load()
	if r != nil && r.login == login {
		h.last.CompareAndSwap(r, nil)
	}
}

// Last returns the last answer, or nil. It runs nothing.
func (h *Helper) Last() *Login {
	if r := h.last.Load(); r != nil {
		return r.login
	}
	return nil
}

// run runs the program once.
func (h *Helper) run(ctx context.Context) (*Login, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	output := &limited{left: maxOutput, end: cancel}
	cmd := exec.CommandContext(ctx, h.program, "get")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(h.server+"\n"), output, io.Discard
	endWithChildren(cmd)
	cmd.WaitDelay = leave
	err := cmd.Run()
	switch {
	case output.exceeded:
		return nil, &Error{h.program, fmt.Errorf("its answer exceeds %d bytes", maxOutput)}
	case ctx.Err() != nil:
		return nil, &Error{h.program, fmt.Errorf("no answer within %s", timeout)}
	case err != nil:
		return nil, &Error{h.program, causeOf(err, output.buffer.String())}
	}
	login, err := parse(output.buffer.Bytes())
	if err != nil {
		return nil, &Error{h.program, err}
	}
	return login, nil
}

// causeOf returns the failure of a run. Helpers print messages where the password would
// be, so only those are repeated that the protocol defines.
func causeOf(err error, output string) error {
	switch message := strings.TrimSpace(output); message {
	case "credentials not found in native keychain", "no credentials server URL", "no credentials username":
		return fmt.Errorf("%w: %s", err, message)
	}
	return err
}

// errAnswer is the failure of an answer of another form. It does not repeat the answer.
var errAnswer = errors.New("its answer is not JSON with a Username and a Secret")

// identityToken is the name that goes with a token in place of a password
// (https://docs.docker.com/reference/cli/docker/login, "Credential helper protocol").
const identityToken = "<token>"

var errIdentityToken = errors.New("it returned an identity token, but the server requires a username and a password. Configure the helper to return those")

// NoPassword returns the error of a login without a password.
func (h *Helper) NoPassword() *Error { return &Error{h.program, errIdentityToken} }

func parse(output []byte) (*Login, error) {
	var answer struct{ Username, Secret string }
	if err := json.Unmarshal(output, &answer); err != nil || answer.Username == "" || answer.Secret == "" {
		return nil, errAnswer
	}
	return &Login{Username: answer.Username, Password: answer.Secret, Identity: answer.Username == identityToken, issued: time.Now()}, nil
}

// limited is a buffer that ends the helper beyond a limit. It has no method of
// [bytes.Buffer], whose ReadFrom would read without a limit.
type limited struct {
	buffer   bytes.Buffer
	left     int
	exceeded bool
	end      func() // of the helper
}

func (l *limited) Write(p []byte) (int, error) {
	if len(p) > l.left {
		l.exceeded = true
		l.end()
		return 0, io.ErrShortWrite
	}
	l.left -= len(p)
	return l.buffer.Write(p)
}
