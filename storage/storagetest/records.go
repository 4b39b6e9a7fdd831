package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/weirhq/weir/storage"
)

var recordsTests = map[string]func(*testing.T, storage.Records){
	"PutThenGet":          testPutThenGet,
	"PutReplaces":         testPutReplaces,
	"PutIsAtomic":         testPutIsAtomic,
	"NoRecord":            testNoRecord,
	"Delete":              testDeleteRecord,
	"DocumentIsACopy":     testDocumentIsACopy,
	"InvalidKeys":         testInvalidKeys,
	"ListOrder":           testListOrder,
	"ListPrefix":          testListPrefix,
	"ListBreaksEarly":     testListBreaksEarly,
	"ListEndsWithContext": testListEndsWithContext,
	"Concurrently":        testRecordsConcurrently,
}

func testPutThenGet(t *testing.T, r storage.Records) {
	long := strings.Repeat("x", 255)
	documents := map[string][]byte{
		"top": []byte("{}"), "a/b/c/d": {}, "large": bytes.Repeat([]byte("x"), 1<<20), long + "/" + long: []byte("long"),
		"ghcr.io%2Facme/app/_tags/v1.0": []byte("escaped"), "...": []byte("dots"), ".hidden": []byte("hidden"),
		"a b": []byte("space"), "ünï/çødé": []byte("unicode"), "\xff\xfe": []byte("bytes"), `back\slash`: []byte("backslash"),
		"new\nline": []byte("newline"), "Case": []byte("upper"), "case": []byte("lower"), "*": []byte("star"), "-rf": []byte("dash"),
	}
	for key, document := range documents {
		put(t, r, key, document)
	}
	for key, document := range documents {
		if got, err := r.Get(t.Context(), key); !bytes.Equal(got, document) || err != nil {
			t.Errorf("Get(%q) = %d bytes, %v, want %d", key, len(got), err, len(document))
		}
	}
	if got := list(t, r, ""); len(got) != len(documents) {
		t.Errorf("List: %q, want %d keys", got, len(documents))
	}
}

func testPutReplaces(t *testing.T, r storage.Records) {
	for _, document := range []string{"first", "a longer second", "3"} {
		put(t, r, "a/key", []byte(document))
		if got, err := r.Get(t.Context(), "a/key"); string(got) != document || err != nil {
			t.Errorf("Get = %q, %v, want %q", got, err, document)
		}
	}
	if got := list(t, r, ""); !slices.Equal(got, []string{"a/key"}) {
		t.Errorf("List: %q", got)
	}
}

func testPutIsAtomic(t *testing.T, r storage.Records) {
	document := func(i int) []byte { return bytes.Repeat([]byte{byte('a' + i)}, 50_000*(i+1)) }
	put(t, r, "a/key", document(0))
	var writers sync.WaitGroup
	for i := range 4 {
		writers.Go(func() {
			for range 25 {
				if err := r.Put(t.Context(), "a/key", document(i)); err != nil {
					t.Errorf("Put: %v", err)
				}
			}
		})
	}
	for range 200 {
		got, err := r.Get(t.Context(), "a/key")
		if err != nil {
			t.Fatalf("Get: %v", err)
		}
		if !slices.ContainsFunc([]int{0, 1, 2, 3}, func(i int) bool { return bytes.Equal(got, document(i)) }) {
			t.Fatalf("Get returned %d bytes that nobody put", len(got))
		}
	}
	writers.Wait()
}

func testNoRecord(t *testing.T, r storage.Records) {
	put(t, r, "a/b/c", []byte("x"))
	for _, key := range []string{"x", "a/x", "a/b/x", "a/b", "a", "a/b/c/d"} {
		if _, err := r.Get(t.Context(), key); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Get(%q): %v, want ErrNotExist", key, err)
		}
		if err := r.Delete(t.Context(), key); !errors.Is(err, storage.ErrNotExist) {
			t.Errorf("Delete(%q): %v, want ErrNotExist", key, err)
		}
	}
	if got := list(t, r, ""); !slices.Equal(got, []string{"a/b/c"}) {
		t.Errorf("List: %q", got)
	}
}

func testDeleteRecord(t *testing.T, r storage.Records) {
	put(t, r, "a/x", []byte("x"))
	put(t, r, "a/y", []byte("y"))
	if err := r.Delete(t.Context(), "a/x"); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	if _, err := r.Get(t.Context(), "a/x"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("Get after Delete: %v, want ErrNotExist", err)
	}
	if err := r.Delete(t.Context(), "a/x"); !errors.Is(err, storage.ErrNotExist) {
		t.Errorf("a second Delete: %v, want ErrNotExist", err)
	}
	if got := list(t, r, ""); !slices.Equal(got, []string{"a/y"}) {
		t.Errorf("List: %q", got)
	}
	put(t, r, "a/x", []byte("again"))
	if got, err := r.Get(t.Context(), "a/x"); string(got) != "again" || err != nil {
		t.Errorf("Get after another Put = %q, %v", got, err)
	}
}

func testDocumentIsACopy(t *testing.T, r storage.Records) {
	document := []byte("document")
	put(t, r, "key", document)
	document[0] = 'X'
	got, err := r.Get(t.Context(), "key")
	if err != nil {
		t.Fatal(err)
	}
	got[1] = 'X'
	if got, err := r.Get(t.Context(), "key"); string(got) != "document" || err != nil {
		t.Errorf("Get = %q, %v after the caller's slices changed", got, err)
	}
}

func testInvalidKeys(t *testing.T, r storage.Records) {
	for _, key := range []string{
		"", "/", "/etc/passwd", "a/", "a//b", ".", "..", "../x", "a/../../x", "a/..", "./a", "a/.", "a\x00b",
		strings.Repeat("x", 256), "a/" + strings.Repeat("x", 256),
	} {
		_, getErr := r.Get(t.Context(), key)
		for method, err := range map[string]error{"Get": getErr, "Put": r.Put(t.Context(), key, nil), "Delete": r.Delete(t.Context(), key)} {
			if !errors.Is(err, storage.ErrInvalidKey) {
				t.Errorf("%s(%.20q): %v, want ErrInvalidKey", method, key, err)
			}
		}
		if key == "" {
			continue // an empty prefix lists everything
		}
		for _, err := range r.List(t.Context(), key) {
			if !errors.Is(err, storage.ErrInvalidKey) {
				t.Errorf("List(%.20q): %v, want ErrInvalidKey", key, err)
			}
		}
	}
	if got := list(t, r, ""); len(got) != 0 {
		t.Errorf("List: %q", got)
	}
}

func testListOrder(t *testing.T, r storage.Records) {
	// A slash sorts after a dash and a dot, and before digits and letters.
	want := []string{"-", "a b/x", "a-b/x", "a-z", "a.b", "a/-", "a/b/c", "a/c", "a0", "aa/b", "b", "ä"}
	if !slices.IsSorted(want) {
		t.Fatal("the test's own keys are not sorted")
	}
	for _, i := range []int{5, 2, 11, 0, 8, 3, 7, 1, 10, 4, 9, 6} {
		put(t, r, want[i], []byte("x"))
	}
	if got := list(t, r, ""); !slices.Equal(got, want) {
		t.Errorf("List:\n %q, want\n %q", got, want)
	}
}

func testListPrefix(t *testing.T, r storage.Records) {
	for _, key := range []string{"a/b/1", "a/b/c/2", "a/bc/3", "a/b-c/4", "ab/5"} {
		put(t, r, key, []byte("x"))
	}
	for prefix, want := range map[string][]string{
		"a":     {"a/b-c/4", "a/b/1", "a/b/c/2", "a/bc/3"},
		"a/b":   {"a/b/1", "a/b/c/2"},
		"a/b/c": {"a/b/c/2"},
		"a/b/1": nil, // a key, with none below it
		"a/x":   nil,
		"x/y/z": nil,
	} {
		if got := list(t, r, prefix); !slices.Equal(got, want) {
			t.Errorf("List(%q): %q, want %q", prefix, got, want)
		}
	}
}

func testListBreaksEarly(t *testing.T, r storage.Records) {
	for _, key := range []string{"a/1", "a/2", "b/1", "c"} {
		put(t, r, key, []byte("x"))
	}
	for _, n := range []int{1, 2, 3} {
		var got []string
		for key := range r.List(t.Context(), "") {
			if got = append(got, key); len(got) == n {
				break
			}
		}
		if len(got) != n {
			t.Errorf("%q before the break, want %d keys", got, n)
		}
	}
}

func testListEndsWithContext(t *testing.T, r storage.Records) {
	for _, key := range []string{"a/1", "a/2", "b/1"} {
		put(t, r, key, []byte("x"))
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	keys, failures := 0, 0
	for _, err := range r.List(ctx, "") {
		cancel()
		if err == nil {
			keys++
			continue
		}
		if failures++; !errors.Is(err, context.Canceled) {
			t.Errorf("List: %v, want the context's error", err)
		}
	}
	if keys != 1 || failures != 1 {
		t.Errorf("%d keys and %d errors, want one of each", keys, failures)
	}
}

func testRecordsConcurrently(t *testing.T, r storage.Records) {
	put(t, r, "shared/kept", []byte("x"))
	var users sync.WaitGroup
	for i := range 8 {
		users.Go(func() {
			key := fmt.Sprintf("shared/dir/%d", i)
			for range 25 {
				if err := r.Put(t.Context(), key, []byte(key)); err != nil {
					t.Errorf("Put: %v", err)
				}
				if got, err := r.Get(t.Context(), key); string(got) != key || err != nil {
					t.Errorf("Get = %q, %v", got, err)
				}
				if got := list(t, r, "shared"); !slices.Contains(got, key) || !slices.Contains(got, "shared/kept") {
					t.Errorf("List misses a key: %q", got)
				}
				if err := r.Delete(t.Context(), key); err != nil {
					t.Errorf("Delete: %v", err)
				}
			}
		})
	}
	users.Wait()
}

func put(t *testing.T, r storage.Records, key string, document []byte) {
	t.Helper()
	if err := r.Put(t.Context(), key, document); err != nil {
		t.Fatalf("Put(%q): %v", key, err)
	}
}

func list(t *testing.T, r storage.Records, prefix string) []string {
	t.Helper()
	var keys []string
	for key, err := range r.List(t.Context(), prefix) {
		if err != nil {
			t.Errorf("List(%q): %v", prefix, err)
		}
		keys = append(keys, key)
	}
	return keys
}
