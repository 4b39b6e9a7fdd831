package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// prefix begins the names of variables that are settings: WEIR_SERVER_PORT is
// server.port.
const prefix = "WEIR_"

// environment puts the variables of the environment over a document.
type environment struct {
	variables map[string]string   // by name; those with the prefix that are not empty
	keys      map[string][]string // key path of each setting that was found, by variable
	problems  Problems
}

func newEnvironment(environ []string) *environment {
	e := &environment{variables: map[string]string{}, keys: map[string][]string{}}
	for _, variable := range environ {
		name, value, _ := strings.Cut(variable, "=")
		// Compose files pass on variables that are not set as empty ones.
		if strings.HasPrefix(name, prefix) && value != "" && !isServiceLink(name, value) {
			e.variables[name] = value
		}
	}
	return e
}

// isServiceLink reports whether Kubernetes has set a variable for a service. A
// service by the name weir-server makes WEIR_SERVER_PORT=tcp://10.0.0.7:8000.
func isServiceLink(name, value string) bool {
	return strings.HasPrefix(value, "tcp://") || strings.HasPrefix(value, "udp://") ||
		strings.HasSuffix(name, "_SERVICE_HOST") || strings.Contains(name, "_SERVICE_PORT")
}

// over returns the document with the values of variables.
func (e *environment) over(root *node) *node {
	if len(e.variables) == 0 {
		return root
	}
	return merge(root, e.table(nil, reflect.TypeFor[Config](), root))
}

// table returns a table with the values of variables, for a table of type t that
// has a key path. below is the table in the document, or nil.
func (e *environment) table(key []string, t reflect.Type, below *node) *node {
	found := table{}
	for name, field := range keysOf(t) {
		at := append(slices.Clone(key), name)
		in := child(below, name)
		switch field.Type {
		case reflect.TypeFor[[]Upstream](), reflect.TypeFor[[]Warm]():
			e.elements(found, name, at, in, field.Type.Elem())
		default:
			switch {
			case isOptionalTable(field.Type):
				e.put(found, name, e.table(at, field.Type.Elem(), in))
			case isNamed(field.Type):
				e.each(found, name, at, in, field.Type.Elem())
			case isTable(field.Type):
				e.put(found, name, e.table(at, field.Type, in))
			case isSecret(field):
				e.secret(found, name, at, below)
			case field.Type.Kind() != reflect.Slice && field.Type.Kind() != reflect.Map: // a list has no form as one variable
				e.value(found, name, at)
			}
		}
	}
	return &node{value: found}
}

func child(n *node, name string) *node {
	if n == nil {
		return nil
	}
	t, _ := n.value.(table)
	return t[name]
}

// put adds a table, unless it is empty: an empty table would switch on a feature such
// as Redis.
func (e *environment) put(into table, name string, n *node) {
	if !isEmpty(n) {
		into[name] = n
	}
}

// each does the work of table for tables by name, such as the repository blocks of the
// document.
func (e *environment) each(found table, name string, key []string, below *node, t reflect.Type) {
	if below == nil {
		return
	}
	blocks, _ := below.value.(table)
	all := table{}
	for _, block := range slices.Sorted(maps.Keys(blocks)) {
		e.put(all, block, e.table(append(slices.Clone(key), block), t, blocks[block]))
	}
	e.put(found, name, &node{value: all})
}

// elements does the work of table for the elements of an array of tables. Arrays are
// replaced as a whole, so the others come along.
func (e *environment) elements(found table, name string, key []string, below *node, t reflect.Type) {
	if below == nil {
		return
	}
	old, _ := below.value.([]*node)
	all, changed := slices.Clone(old), false
	for i := range all {
		n := e.table(append(slices.Clone(key), strconv.Itoa(i)), t, all[i])
		if !isEmpty(n) {
			merged := merge(all[i], n)
			merged.position = all[i].position
			all[i], changed = merged, true
		}
	}
	if changed {
		found[name] = &node{all, below.position}
	}
}

// value adds the value of a variable, if it is set.
func (e *environment) value(found table, name string, key []string) {
	variable := variableOf(key)
	value, set := e.variables[variable]
	if !set {
		return
	}
	path := ""
	for _, part := range key {
		path = keyIn(path, part)
	}
	// Two blocks such as a.b and a-b have the same variables. A password must not
	// reach the wrong one.
	if other, taken := e.keys[variable]; taken {
		e.problems = append(e.problems, &Problem{File: variable, Key: path, Err: fmt.Errorf("is also the variable of %s; set it in a file", strings.Join(other, "."))})
		return
	}
	e.keys[variable] = key
	found[name] = scalar(value, key, position{file: variable})
}

// secret adds the value of a secret, or of the key that names its file. Either one
// replaces both of the document: in one file, the two at once are a mistake.
func (e *environment) secret(found table, name string, key []string, below *node) {
	e.value(found, name, key)
	file := slices.Clone(key)
	file[len(file)-1] = name + fileSuffix
	e.value(found, name+fileSuffix, file)
	if found[name] == nil && found[name+fileSuffix] == nil || below == nil {
		return
	}
	if t, ok := below.value.(table); ok {
		delete(t, name)
		delete(t, name+fileSuffix)
	}
}

// strange returns the variables that look like settings and are none, sorted.
func (e *environment) strange() []string {
	var names []string
	for name := range e.variables {
		if _, found := e.keys[name]; found {
			continue
		}
		// Other variables may be of scripts around Weir.
		for table := range keysOf(reflect.TypeFor[Config]()) {
			if strings.HasPrefix(name, prefix+strings.ToUpper(table)+"_") {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names
}

// variableOf returns the variable of a key path. Any character that a variable cannot
// have becomes an underscore: WEIR_REPOSITORY_DOCKER_IO_UPSTREAM_0_PASSWORD.
func variableOf(key []string) string {
	name := strings.ToUpper(strings.Join(key, "_"))
	return prefix + strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, name)
}

// scalar returns a value as TOML would have it in the place of a key. A text that has
// no such form stays a string, about which decode complains.
func scalar(text string, key []string, at position) *node {
	switch t := typeAt(reflect.TypeFor[Config](), key); {
	case t == nil:
	case t.Kind() == reflect.Bool, t == reflect.TypeFor[SyncToDisk]():
		if b, err := strconv.ParseBool(text); err == nil {
			return &node{b, at}
		}
	case t == reflect.TypeFor[*float64]():
		if f, err := strconv.ParseFloat(text, 64); err == nil {
			return &node{f, at}
		}
	case t == reflect.TypeFor[int](), t == reflect.TypeFor[time.Duration]():
		if i, err := strconv.ParseInt(text, 10, 64); err == nil {
			return &node{i, at}
		}
	}
	return &node{escape(text), at} // no ${NAME} is expanded in it
}

// typeAt returns the type of the field of a key path, or nil if there is none.
func typeAt(t reflect.Type, key []string) reflect.Type {
	for len(key) > 0 {
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.Kind() == reflect.Slice { // the key of a block, or an index
			t, key = t.Elem(), key[1:]
			continue
		}
		var next reflect.Type
		for name, field := range keysOf(t) {
			if name == key[0] {
				next = field.Type
			}
		}
		if next == nil {
			return nil
		}
		t, key = next, key[1:]
	}
	return t
}
