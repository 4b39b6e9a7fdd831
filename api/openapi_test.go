package api

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/google/go-cmp/cmp"

	"github.com/weirhq/weir/oci"
)

// documents are the documents of the paths.
var documents = map[string]any{
	"/refresh":                        RefreshDocument{},
	"/images/{image}":                 RemovedDocument{},
	"/downloads":                      DownloadsDocument{},
	"/status":                         Status{},
	"/requests":                       RequestsDocument{},
	"/pins":                           PinsDocument{},
	"/warm":                           StartedDocument{},
	"/jobs":                           JobsDocument{},
	"/jobs/{id}":                      JobDocument{},
	"/pins/{image}":                   PinDocument{},
	"/repositories":                   RepositoriesDocument{},
	"/repositories/{name}":            RepositoryDocument{},
	"/repositories/{name}/tags":       TagsDocument{},
	"/repositories/{name}/tags/{tag}": TagDocument{},
	"/repositories/{name}/tags/{tag}/history": HistoryDocument{},
	"/repositories/{name}/manifests/{digest}": ManifestDocument{},
}

// bodies are the bodies of requests.
var bodies = map[string]any{"/refresh": refreshRequest{}, "/warm": warmRequest{}}

// readDescription reads the description once for all tests.
var readDescription = sync.OnceValues(func() (*openapi3.T, error) {
	doc, err := openapi3.NewLoader().LoadFromData(description)
	if err == nil {
		err = doc.Validate(context.Background())
	}
	return doc, err
})

func descriptionOf(t *testing.T) *openapi3.T {
	t.Helper()
	doc, err := readDescription()
	if err != nil {
		t.Fatal(err)
	}
	return doc
}

// The description has the routes of the handler, their parameters and the fields of their
// documents, and nothing else.
func TestDescriptionIsThatOfTheHandler(t *testing.T) {
	doc := descriptionOf(t)
	if got := doc.Servers[0].URL + "/"; got != Prefix {
		t.Errorf("the server is %q", got)
	}
	described := make(map[string][]string)
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			var query []string
			for _, p := range op.Parameters {
				if p.Value.In == openapi3.ParameterInQuery {
					query = append(query, p.Value.Name)
				} else if !strings.Contains(path, "{"+p.Value.Name+"}") {
					t.Errorf("%s has no part %s", path, p.Value.Name)
				}
			}
			described[method+" "+path] = query
			if body := op.RequestBody; (body != nil) != (method == http.MethodPost) {
				t.Errorf("%s %s has a body: %v", method, path, body != nil)
			} else if body != nil {
				compare(t, path+" request", body.Value.Content.Get("application/json").Schema, reflect.TypeOf(bodies[path]))
			}
			if path == "/events" { // no document, but a stream
				continue
			}
			success := "200"
			if _, ok := documents[path].(interface{ status() int }); ok {
				success = "202"
			}
			schema := op.Responses.Value(success).Value.Content.Get("application/json").Schema
			compare(t, path, schema, reflect.TypeOf(documents[path]))
			for status := range op.Responses.Map() {
				if answer := op.Responses.Value(status).Value.Content.Get("application/json").Schema; status != success {
					compare(t, path+" "+status, answer, reflect.TypeFor[oci.ErrorDocument]())
				}
			}
		}
	}
	served := make(map[string][]string)
	for _, one := range routes {
		served[one.method+" /"+one.path] = one.query
	}
	if diff := cmp.Diff(served, described); diff != "" {
		t.Errorf("the handler (-) has other routes than the description (+):\n%s", diff)
	}
}

// compare compares a schema with the type of a document.
func compare(t *testing.T, at string, ref *openapi3.SchemaRef, of reflect.Type) {
	t.Helper()
	schema := ref.Value
	for of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	switch {
	case of == reflect.TypeFor[time.Time]():
		if schema.Format != "date-time" {
			t.Errorf("%s is a time", at)
		}
	case of.Kind() == reflect.Interface:
	case of.Kind() == reflect.Slice:
		expectType(t, at, schema, openapi3.TypeArray)
		compare(t, at+"[]", schema.Items, of.Elem())
	case of.Kind() == reflect.Map:
		expectType(t, at, schema, openapi3.TypeObject)
		compare(t, at+"{}", schema.AdditionalProperties.Schema, of.Elem())
	case of.Kind() == reflect.Struct:
		expectType(t, at, schema, openapi3.TypeObject)
		compareFields(t, at, schema, of)
	default:
		want := map[reflect.Kind]string{
			reflect.String: openapi3.TypeString, reflect.Bool: openapi3.TypeBoolean, reflect.Int: openapi3.TypeInteger, reflect.Int64: openapi3.TypeInteger, reflect.Float64: openapi3.TypeNumber,
		}[of.Kind()]
		expectType(t, at, schema, want)
	}
}

func expectType(t *testing.T, at string, schema *openapi3.Schema, want string) {
	t.Helper()
	if !schema.Type.Is(want) || schema.Description == "" {
		t.Errorf("%s is described as %v with the description %q, and is %q", at, schema.Type, schema.Description, want)
	}
}

func compareFields(t *testing.T, at string, schema *openapi3.Schema, of reflect.Type) {
	t.Helper()
	var names, required []string
	for field := range of.Fields() {
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "-" { // for callers within the program
			continue
		}
		names = append(names, name)
		if !strings.Contains(options, "omit") {
			required = append(required, name)
		}
		if property := schema.Properties[name]; property != nil {
			compare(t, at+"."+name, property, field.Type)
		}
	}
	var described []string
	for name := range schema.Properties {
		described = append(described, name)
	}
	slices.Sort(names)
	slices.Sort(described)
	if diff := cmp.Diff(names, described); diff != "" {
		t.Errorf("%s has other fields (-) than its description (+):\n%s", at, diff)
	}
	wanted := slices.Sorted(slices.Values(schema.Required))
	slices.Sort(required)
	if diff := cmp.Diff(required, wanted); diff != "" {
		t.Errorf("%s always has other fields (-) than its description says (+):\n%s", at, diff)
	}
}

// expectDescribed checks an answer against the description.
func expectDescribed(t *testing.T, route string, status int, body []byte) {
	t.Helper()
	path := descriptionOf(t).Paths.Value(route)
	if path == nil {
		t.Fatalf("%s is not described", route)
	}
	op := path.Get
	for _, other := range []*openapi3.Operation{path.Post, path.Put, path.Delete} {
		if op == nil {
			op = other
		}
	}
	answer := op.Responses.Value(fmt.Sprint(status))
	var document any
	if err := json.Unmarshal(body, &document); err != nil || answer == nil {
		t.Fatalf("%s: %d %.200s: %v", route, status, body, err)
	}
	if err := answer.Value.Content.Get("application/json").Schema.Value.VisitJSON(document); err != nil {
		t.Errorf("%s: %d %.500s\n%v", route, status, body, err)
	}
}

// The description can be fetched, and other methods and paths say so.
func TestDescriptionIsServed(t *testing.T) {
	m := newMirror(t)
	if w := m.get(t, "openapi.json"); w.Code != http.StatusOK || w.Body.String() != string(description) {
		t.Errorf("%d %.100s", w.Code, w.Body)
	}
	for _, path := range []string{"", "nothing", "repositories/a/b/c/d/e"} {
		if w := m.get(t, path); w.Code != http.StatusNotFound || !strings.Contains(w.Body.String(), "openapi.json") {
			t.Errorf("%q: %d %s", path, w.Code, w.Body)
		}
	}
	if w := m.do(t, http.MethodPost, "repositories"); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST: %d %s", w.Code, w.Body)
	}
	if w := m.get(t, "refresh"); w.Code != http.StatusMethodNotAllowed || w.Header().Get("Allow") != http.MethodPost {
		t.Errorf("GET: %d %s", w.Code, w.Body)
	}
}
