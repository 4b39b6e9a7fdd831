package upstreamtest_test

import (
	"bytes"
	"crypto/tls"
	"io"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"go.uber.org/goleak"

	"github.com/weirhq/weir/upstream/upstreamtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// get sends a GET without a connection that would be used again.
func get(t *testing.T, url, byteRange string) (status int, body []byte, err error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Close = true
	if byteRange != "" {
		req.Header.Set("Range", byteRange)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	body, err = io.ReadAll(resp.Body)
	return resp.StatusCode, body, err
}

func TestRandomBlob(t *testing.T) {
	r := upstreamtest.New(t)
	const size = 10_007
	dgst := r.AddRandomBlob("repo", size, 7)
	url := r.URL.JoinPath("v2/repo/blobs", dgst.String()).String()
	_, whole, err := get(t, url, "")
	if err != nil || len(whole) != size || digest.FromBytes(whole) != dgst {
		t.Fatalf("%d bytes, %v", len(whole), err)
	}
	for _, from := range []int{1, 8, 13, 9_999} { // words have 8 bytes
		rest, err := io.ReadAll(io.NewSectionReader(upstreamtest.RandomBlob(size, 7), int64(from), size))
		if err != nil || !bytes.Equal(rest, whole[from:]) {
			t.Errorf("from %d on it differs", from)
		}
	}
	if status, part, _ := get(t, url, "bytes=5-14"); status != http.StatusPartialContent || !bytes.Equal(part, whole[5:15]) {
		t.Errorf("%d, %d bytes", status, len(part))
	}
	if status, _, _ := get(t, url, "bytes=10007-"); status != http.StatusRequestedRangeNotSatisfiable {
		t.Errorf("beyond the end: %d", status)
	}
	path := "GET /v2/repo/blobs/" + dgst.String()
	if diff := cmp.Diff([]string{path + " 200", path + " bytes=5-14 206", path + " bytes=10007- 416"}, r.Requests()); diff != "" {
		t.Error(diff)
	}
	r.ResetRequests()
	if got := r.Requests(); len(got) != 0 {
		t.Errorf("after a reset: %v", got)
	}
}

func TestFaults(t *testing.T) {
	r := upstreamtest.New(t)
	dgst := r.AddBlob("repo", []byte("0123456789"))
	url := r.URL.JoinPath("v2/repo/blobs", dgst.String()).String()
	open := upstreamtest.NewGate()
	open.Open()
	tests := map[string]struct {
		effect    upstreamtest.Effect
		byteRange string
		status    int
		body      string
		broken    bool
	}{
		"status":    {upstreamtest.Status(503, "no"), "", 503, "no", false},
		"drop":      {upstreamtest.Drop(), "", 0, "", true},
		"cut":       {upstreamtest.CutAfter(3), "bytes=2-", 206, "234", true},
		"cut every": {upstreamtest.CutEvery(4), "bytes=2-", 206, "23", true},
		"truncate":  {upstreamtest.Truncate(4), "", 200, "0123", false},
		"corrupt":   {upstreamtest.Corrupt(1), "", 200, "0\xce23456789", false},
		"stall":     {upstreamtest.StallAfter(4, open), "", 200, "0123456789", false},
		"no range":  {upstreamtest.IgnoreRange(), "bytes=2-", 200, "0123456789", false},
		"chunked":   {upstreamtest.Chunked(), "bytes=2-", 206, "23456789", false},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			fault := r.Fault(upstreamtest.Blobs, test.effect).Times(1)
			status, body, err := get(t, url, test.byteRange)
			if status != test.status || string(body) != test.body || (err != nil) != test.broken {
				t.Errorf("%d %q, %v", status, body, err)
			}
			if _, body, err := get(t, url, ""); string(body) != "0123456789" || err != nil || fault.Hits() != 1 {
				t.Errorf("afterwards %q, %v with %d hits", body, err, fault.Hits())
			}
		})
	}
}

func TestGateHoldsRequests(t *testing.T) {
	r := upstreamtest.New(t)
	gate := upstreamtest.NewGate()
	r.Fault(upstreamtest.Any, upstreamtest.Hold(gate))
	done := make(chan int)
	for range 2 {
		go func() {
			status, _, _ := get(t, r.URL.JoinPath("v2/").String(), "")
			done <- status
		}()
	}
	if err := gate.Arrived(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	select {
	case <-done:
		t.Error("the gate is closed and a request passed")
	default:
	}
	gate.Open()
	if a, b := <-done, <-done; a != 200 || b != 200 {
		t.Errorf("got %d and %d", a, b)
	}
}

func TestCloseAndReopen(t *testing.T) {
	r := upstreamtest.New(t)
	url := r.URL.JoinPath("v2/").String()
	for range 2 {
		if status, _, err := get(t, url, ""); status != 200 {
			t.Errorf("%d, %v", status, err)
		}
		r.Close()
		if _, _, err := get(t, url, ""); err == nil {
			t.Error("it answers while it is closed")
		}
		r.Reopen()
	}
}

func TestCertificateFiles(t *testing.T) {
	r := upstreamtest.New(t, upstreamtest.WithClientCertificates())
	certificate, err := tls.LoadX509KeyPair(r.ClientCertificateFiles())
	if err != nil {
		t.Fatal(err)
	}
	for _, certificates := range [][]tls.Certificate{{certificate}, nil} {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: r.RootCAs(), Certificates: certificates}}
		resp, err := (&http.Client{Transport: transport}).Get(r.URL.JoinPath("v2/").String())
		if (err == nil) != (certificates != nil) {
			t.Errorf("with %d certificates: %v", len(certificates), err)
		}
		if err == nil {
			resp.Body.Close()
		}
		transport.CloseIdleConnections()
	}
}
