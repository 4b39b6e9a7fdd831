package tests

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/weirhq/weir/tests/harness"
)

const chart = "../contrib/kubernetes/weir"

// object has the fields of the chart's objects that the tests look at.
type object struct {
	Kind      string            `yaml:"kind"`
	Automount *bool             `yaml:"automountServiceAccountToken"` // of a ServiceAccount
	Data      map[string]string `yaml:"data"`                         // of a ConfigMap
	Spec      struct {
		Replicas    int      `yaml:"replicas"`    // of a StatefulSet
		Groups      []any    `yaml:"groups"`      // of a PrometheusRule
		PolicyTypes []string `yaml:"policyTypes"` // of a NetworkPolicy
		Ingress     []struct {
			From  []any `yaml:"from"`
			Ports []struct {
				Port any `yaml:"port"`
			} `yaml:"ports"`
		} `yaml:"ingress"`
		Egress               []any `yaml:"egress"`
		VolumeClaimTemplates []any `yaml:"volumeClaimTemplates"`
		Template             struct {
			Spec podSpec `yaml:"spec"`
		} `yaml:"template"`
	} `yaml:"spec"`
}

type podSpec struct {
	ServiceAccountName            string `yaml:"serviceAccountName"`
	AutomountServiceAccountToken  *bool  `yaml:"automountServiceAccountToken"`
	TerminationGracePeriodSeconds int    `yaml:"terminationGracePeriodSeconds"`
	SecurityContext               struct {
		RunAsNonRoot   bool `yaml:"runAsNonRoot"`
		FSGroup        int  `yaml:"fsGroup"`
		SeccompProfile struct {
			Type string `yaml:"type"`
		} `yaml:"seccompProfile"`
	} `yaml:"securityContext"`
	Containers []struct {
		Args      []string         `yaml:"args"`
		EnvFrom   []map[string]any `yaml:"envFrom"`
		Env       []variable       `yaml:"env"`
		Resources struct {
			Limits map[string]string `yaml:"limits"`
		} `yaml:"resources"`
		SecurityContext struct {
			AllowPrivilegeEscalation *bool `yaml:"allowPrivilegeEscalation"`
			ReadOnlyRootFilesystem   bool  `yaml:"readOnlyRootFilesystem"`
			Capabilities             struct {
				Drop []string `yaml:"drop"`
			} `yaml:"capabilities"`
		} `yaml:"securityContext"`
		LivenessProbe  probe `yaml:"livenessProbe"`
		ReadinessProbe probe `yaml:"readinessProbe"`
		VolumeMounts   []struct {
			MountPath string `yaml:"mountPath"`
			SubPath   string `yaml:"subPath"`
		} `yaml:"volumeMounts"`
	} `yaml:"containers"`
	Volumes []struct {
		ConfigMap struct {
			Name string `yaml:"name"`
		} `yaml:"configMap"`
		Secret struct {
			SecretName string `yaml:"secretName"`
		} `yaml:"secret"`
		Name     string         `yaml:"name"`
		EmptyDir map[string]any `yaml:"emptyDir"`
	} `yaml:"volumes"`
}

type variable struct {
	Name      string `yaml:"name"`
	Value     string `yaml:"value"`
	ValueFrom struct {
		FieldRef struct {
			FieldPath string `yaml:"fieldPath"`
		} `yaml:"fieldRef"`
	} `yaml:"valueFrom"`
}

type probe struct {
	HTTPGet struct {
		Path string `yaml:"path"`
	} `yaml:"httpGet"`
	Exec struct {
		Command []string `yaml:"command"`
	} `yaml:"exec"`
}

// helm is the program that renders the chart.
type helm struct{ path string }

func (h helm) command(t *testing.T, args ...string) *exec.Cmd {
	return exec.CommandContext(t.Context(), h.path, args...)
}

// render returns the chart's objects by their kinds.
func (h helm) render(t *testing.T, args ...string) map[string]object {
	t.Helper()
	out := harness.Run(t, h.command(t, append([]string{"template", "mirror", chart, "--kube-version", "1.31.0"}, args...)...))
	objects := make(map[string]object)
	for decoder := yaml.NewDecoder(bytes.NewReader([]byte(out))); ; {
		var o object
		err := decoder.Decode(&o)
		if errors.Is(err, io.EOF) {
			return objects
		}
		harness.Must(t, err)
		objects[o.Kind] = o
	}
}

func TestChart(t *testing.T) {
	t.Parallel()
	h := helm{harness.Tool(t, "helm", "helm")}
	everything := []string{"--set", "replicas=2,secretName=upstreams,serviceMonitor.enabled=true,ingress.enabled=true,ingress.host=mirror.example.com,ingress.tlsSecretName=tls,service.type=NodePort,service.nodePort=30800",
		"--set", "serviceAccount.create=true,networkPolicy.enabled=true,prometheusRule.enabled=true"}
	for _, values := range [][]string{nil, everything, {"--set", "persistence.enabled=false,existingConfigMap=mine,podDisruptionBudget.enabled=false"}} {
		harness.Run(t, h.command(t, append([]string{"lint", "--strict", chart}, values...)...))
	}

	t.Run("configuration", func(t *testing.T) {
		dir := t.TempDir()
		harness.WriteFile(t, filepath.Join(dir, "config.toml"), h.render(t)["ConfigMap"].Data["config.toml"])
		got := command(t, dir, "check")
		// Its data directory is the container's, which need not be there.
		if got.code != 0 || !strings.Contains(got.stdout, `root_dir = "/var/lib/weir"`) || !strings.Contains(got.stdout, `bind_address = "0.0.0.0"`) {
			t.Errorf("%+v", got)
		}
	})
	t.Run("pod", func(t *testing.T) {
		pod := h.render(t)["StatefulSet"].Spec.Template.Spec
		c := pod.Containers[0]
		if s := pod.SecurityContext; !s.RunAsNonRoot || s.FSGroup == 0 || s.SeccompProfile.Type != "RuntimeDefault" ||
			pod.AutomountServiceAccountToken == nil || *pod.AutomountServiceAccountToken {
			t.Errorf("the pod has too many rights: %+v", pod)
		}
		if s := c.SecurityContext; s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !s.ReadOnlyRootFilesystem ||
			len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
			t.Errorf("the container has too many rights: %+v", c)
		}
		if limits := c.Resources.Limits; limits["memory"] != "1Gi" {
			t.Errorf("its limits are %v", limits)
		}
		if drain := drainSeconds(t); pod.TerminationGracePeriodSeconds <= drain {
			t.Errorf("killed after %d s, want more than global.shutdown_drain_secs, %d", pod.TerminationGracePeriodSeconds, drain)
		}
		if c.LivenessProbe.HTTPGet.Path != "/healthz" || c.ReadinessProbe.HTTPGet.Path != "/readyz" {
			t.Errorf("its probes are %+v and %+v", c.LivenessProbe, c.ReadinessProbe)
		}
		for _, mount := range c.VolumeMounts {
			if mount.SubPath != "" {
				t.Errorf("%s is mounted as a single file, which would never change", mount.MountPath)
			}
		}
	})
	t.Run("TLS", func(t *testing.T) {
		c := h.render(t, "--set", "tls=true,serviceMonitor.enabled=true,serviceMonitor.tlsConfig.insecureSkipVerify=true")["StatefulSet"].Spec.Template.Spec.Containers[0]
		const config = "--config=/etc/weir/config.toml"
		if got := c.LivenessProbe; got.HTTPGet.Path != "" || !slices.Equal(got.Exec.Command, []string{"/weir", "healthcheck", config}) {
			t.Errorf("liveness: %+v", got)
		}
		if got := c.ReadinessProbe; got.HTTPGet.Path != "" || !slices.Equal(got.Exec.Command, []string{"/weir", "healthcheck", "--ready", config}) {
			t.Errorf("readiness: %+v", got)
		}
	})
	t.Run("kinds", func(t *testing.T) {
		got := h.render(t, everything...)
		for _, kind := range []string{"ConfigMap", "Ingress", "NetworkPolicy", "PodDisruptionBudget", "PrometheusRule", "Service", "ServiceAccount", "ServiceMonitor", "StatefulSet"} {
			if got[kind].Kind == "" {
				t.Errorf("everything is asked for, and there is no %s", kind)
			}
		}
		if v := got["StatefulSet"].Spec.Template.Spec.Volumes; len(v) != 2 || v[1].Secret.SecretName != "upstreams" {
			t.Errorf("volumes %+v", v)
		}
		got = h.render(t)
		if len(got) != 3 || len(got["StatefulSet"].Spec.VolumeClaimTemplates) != 1 {
			t.Errorf("by default there are %+v", got)
		}
		got = h.render(t, "--set", "persistence.enabled=false,existingConfigMap=mine")
		if v := got["StatefulSet"].Spec.Template.Spec.Volumes; len(got) != 2 || len(v) != 2 || v[0].ConfigMap.Name != "mine" || v[1].EmptyDir == nil {
			t.Errorf("with a ConfigMap of one's own and no claim: %+v", got)
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		for _, values := range []string{"replica=2", "replicas=two", "service.type=Loadbalancer", "persistence.size=100GB", "ingress.enabled=true", "persistence.accessModes={ReadWriteMany}",
			"replicaCount=two", "cluster.enabled=true", "cluster.port=8001", "s3.enabled=true", "s3.enabled=true,s3.bucket=b,s3.endpoint=s3.example.com",
			"s3.enabled=true,s3.bucket=b,s3.endpoint=https://s3.example.com,s3.accessKeyId=id", "s3.secret=x", "redis.url=redis://u:p@redis", "redis.url=redis",
			"extraArgs={--listen=:9000}", "extraVolumes[0].name=data", "extraVolumeMounts[0].name=ca", "networkPolicy.from=all", "serviceAccount.automount=true"} {
			if out, err := h.command(t, "template", chart, "--kube-version", "1.31.0", "--set", values).CombinedOutput(); err == nil || !strings.Contains(string(out), "schema") {
				t.Errorf("%s is accepted: %v\n%s", values, err, out)
			}
		}
	})
	t.Run("address", func(t *testing.T) { h.testAddress(t) })
	t.Run("extras", func(t *testing.T) { h.testExtras(t) })
	t.Run("fleet", func(t *testing.T) { h.testFleet(t) })
	t.Run("rules", func(t *testing.T) {
		var want struct{ Groups []any }
		rules, err := os.ReadFile("../contrib/prometheus/weir.rules.yml")
		harness.Must(t, err)
		harness.Must(t, yaml.Unmarshal(rules, &want))
		got := h.render(t, "--set", "prometheusRule.enabled=true")["PrometheusRule"].Spec.Groups
		if diff := cmp.Diff(want.Groups, got); diff != "" || len(got) == 0 {
			t.Errorf("copy contrib/prometheus/weir.rules.yml to contrib/kubernetes/weir/files: -want +rendered:\n%s", diff)
		}
	})
}

// testAddress checks that the chart refuses a configuration whose address or port no
// client and no probe would reach, however it is written, and no other one.
func (h helm) testAddress(t *testing.T) {
	file := filepath.Join(t.TempDir(), "config.toml")
	args := []string{"template", chart, "--kube-version", "1.31.0", "--set-file", "config=" + file}
	for config, want := range map[string]string{
		"[server]\nbind_address = \"127.0.0.1\"\n":           "server.bind_address is 127.0.0.1,",
		"[server]\nbind_address=\"127.1\" # loopback\n":      "server.bind_address is 127.1,",
		"[ server ] # x\n 'bind_address' = 'LOCALHOST'\n":    "server.bind_address is localhost,",
		"[server]\nport = 8000\nbind_address = \"[::1]\"\n":  "server.bind_address is [::1],",
		"[server]\nbind_address = \"0:0:0:0:0:0:0:1\"\n":     "server.bind_address is 0:0:0:0:0:0:0:1,",
		"[server]\nbind_address = \"::ffff:127.0.0.1\"\n":    "server.bind_address is ::ffff:127.0.0.1,",
		"server.bind_address = \"localhost\"\n":              "server.bind_address is localhost,",
		"server = { bind_address = \"::1\", port = 8000 }\n": "server.bind_address is ::1,",
		"[server]\nport=9000":                                "server.port is 9000,",
		"[\"server\"]\r\nport = 0 # any\r\n":                 "server.port is 0,",
		"server.port = 80\n":                                 "server.port is 80,",
		"server={port=5000}":                                 "server.port is 5000,",
		"[log]\nlevel = \"info\"\n\t[server]\n\tport = 5000": "server.port is 5000,",
		// These are reached.
		"": "", "[server]\n": "", "[server]\nport = 8_000\n": "", "[server]\nbind_address = \"::\"\nport = 8000\n": "",
		"[server]\n#port = 9000\n#bind_address = \"127.0.0.1\"\n": "", "[server]\nbind_address = \"10.127.0.1\"\n": "",
		"[server]\nbind_address = \"0.0.0.0\"\n[cache.redis]\nport = 1\nurl = \"redis://127.0.0.1\"\n": "",
		"[[repository.\"localhost:5000\".upstream]]\nurl = \"http://localhost:5000\"\n":                "",
	} {
		harness.WriteFile(t, file, config)
		out, err := h.command(t, args...).CombinedOutput()
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(string(out), "config: "+want)) {
			t.Errorf("%q: %v, %.300s; want %q", config, err, out, want)
		}
	}
}

// testExtras checks the values that add to the pod and restrict it.
func (h helm) testExtras(t *testing.T) {
	got := h.render(t, "--set", "extraVolumes[0].name=ca,extraVolumes[0].secret.secretName=authority,extraVolumeMounts[0].name=ca,extraVolumeMounts[0].mountPath=/etc/ca",
		"--set", "extraArgs={--log-level=debug},envFrom[0].secretRef.name=proxy,serviceAccount.create=true,networkPolicy.enabled=true",
		"--set", "networkPolicy.from[0].ipBlock.cidr=10.0.0.0/8,networkPolicy.egress[0].ports[0].port=443")
	pod := got["StatefulSet"].Spec.Template.Spec
	c := pod.Containers[0]
	if n := len(pod.Volumes); pod.Volumes[n-1].Name != "ca" || c.VolumeMounts[len(c.VolumeMounts)-1].MountPath != "/etc/ca" || len(c.EnvFrom) != 1 {
		t.Errorf("%+v", pod)
	}
	// The address of the Service and the probes holds whatever the configuration says.
	if want := []string{"serve", "--config=/etc/weir/config.toml", "--listen=:8000", "--log-level=debug"}; !slices.Equal(c.Args, want) {
		t.Errorf("the arguments are %q, want %q", c.Args, want)
	}
	if account := got["ServiceAccount"]; pod.ServiceAccountName != "mirror-weir" || account.Automount == nil || *account.Automount {
		t.Errorf("the account of %s is %+v", pod.ServiceAccountName, account)
	}
	if policy := got["NetworkPolicy"].Spec; !slices.Equal(policy.PolicyTypes, []string{"Ingress", "Egress"}) || len(policy.Ingress) != 1 || len(policy.Ingress[0].From) != 1 {
		t.Errorf("the policy is %+v", policy)
	}
	// Without rules of its own a policy must not forbid everything.
	if policy := h.render(t, "--set", "networkPolicy.enabled=true")["NetworkPolicy"].Spec; !slices.Equal(policy.PolicyTypes, []string{"Ingress"}) || len(policy.Ingress) != 1 || policy.Ingress[0].From != nil {
		t.Errorf("the policy is %+v", policy)
	}
	if account := h.render(t)["StatefulSet"].Spec.Template.Spec.ServiceAccountName; account != "default" {
		t.Errorf("the account is %s", account)
	}
}

// testFleet checks the values of a fleet: the environment that they give the pod makes the
// configuration that is meant, and only replicas reach the port of replicas.
func (h helm) testFleet(t *testing.T) {
	for name, tc := range map[string]struct {
		set, ip string
		want    []string
		not     string
	}{
		"IPv4 and a key": {"s3.accessKeyId=id,s3.keyPrefix=weir,s3.localSize=90GiB", "10.1.2.3",
			[]string{`advertise = "http://10.1.2.3:8001"`, `access_key_id = "id"`, "secret_key_file = ", `key_prefix = "weir"`, `max_size = "90GiB"`}, ""},
		"IPv6 and a role": {"cluster.ipv6=true", "fd00::7", []string{`advertise = "http://[fd00::7]:8001"`, `access_key_id = ""`, `max_size = "10GiB"`}, "secret_key_file = "},
	} {
		dir := t.TempDir()
		got := h.render(t, "--set", "replicaCount=3,secretName=fleet,redis.url=redis://redis:6379/0,networkPolicy.enabled=true,networkPolicy.egress[0].ports[0].port=443",
			"--set", "cluster.enabled=true,s3.enabled=true,s3.endpoint=https://s3.example.com,s3.bucket=mirror,s3.region=eu", "--set", tc.set)
		if n := got["StatefulSet"].Spec.Replicas; n != 3 || got["PodDisruptionBudget"].Kind == "" {
			t.Errorf("%s: %d replicas, and the objects are %v", name, n, slices.Collect(maps.Keys(got)))
		}
		for _, secret := range []string{"cluster", "s3"} {
			harness.WriteFile(t, filepath.Join(dir, secret), strings.Repeat(secret, 8)+"\n")
			harness.Must(t, os.Chmod(filepath.Join(dir, secret), 0o600))
		}
		harness.WriteFile(t, filepath.Join(dir, "config.toml"), got["ConfigMap"].Data["config.toml"])
		check := exec.CommandContext(t.Context(), harness.Binary(t), "check")
		check.Dir, check.Env = dir, os.Environ()
		for _, v := range got["StatefulSet"].Spec.Template.Spec.Containers[0].Env {
			if v.ValueFrom.FieldRef.FieldPath == "status.podIP" {
				v.Value = tc.ip
			}
			// The kubelet does so with variables that stand before.
			value := strings.NewReplacer("$(POD_IP)", tc.ip, "/run/secrets/weir", dir).Replace(v.Value)
			check.Env = append(check.Env, v.Name+"="+value)
		}
		printed := harness.Run(t, check)
		for _, line := range append(tc.want, "peer_port = 8001", "secret_file = ", `url = "redis://redis:6379/0"`, `endpoint = "https://s3.example.com"`, `bucket = "mirror"`, `region = "eu"`) {
			if !strings.Contains(printed, "\n"+line) {
				t.Errorf("%s: the configuration lacks %s:\n%s", name, line, printed)
			}
		}
		if tc.not != "" && strings.Contains(printed, "\n"+tc.not) {
			t.Errorf("%s: the configuration has %s:\n%s", name, tc.not, printed)
		}
		policy := got["NetworkPolicy"].Spec
		if n := len(policy.Ingress); n != 2 || len(policy.Ingress[1].From) != 1 || policy.Ingress[1].Ports[0].Port != "peers" || len(policy.Egress) != 2 {
			t.Errorf("%s: the policy is %+v", name, policy)
		}
	}
	if n := h.render(t, "--set", "replicaCount=3,replicas=2")["StatefulSet"].Spec.Replicas; n != 2 {
		t.Errorf("the older name of replicaCount gives %d replicas", n)
	}
	if got := h.render(t)["StatefulSet"].Spec; got.Replicas != 1 || len(got.Template.Spec.Containers[0].Env) != 0 {
		t.Errorf("by default there are %d replicas, with %v", got.Replicas, got.Template.Spec.Containers[0].Env)
	}
}
