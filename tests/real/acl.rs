//! Which capability each request needs, and what a tenant's own policy opens.

use serde_json::json;

use super::harness::tests;
use super::rig::{EMAIL, Rig};

tests! {
    update_alone_is_enough_to_rotate,
    create_alone_creates_once_and_changes_nothing,
    a_tenant_sees_its_own_and_nothing_else,
    a_client_may_have_its_read_wrapped,
}

async fn update_alone_is_enough_to_rotate() {
    let rig = Rig::shared("acl-rotate").await;
    rig.create("acme").await;
    let rule = ("acl-rotate/+/rotate", &["update"][..]);
    let rotator = rig.api.with_policy("acl-rotate", &[rule]).await;

    let rotated = rotator.write("acl-rotate/acme/rotate", json!({})).await;
    assert_eq!(rotated.data()["version"], 2);
    // Also where there is nothing: a policy must not depend on what exists.
    let unknown = rotator.write("acl-rotate/nobody/rotate", json!({})).await;
    assert_eq!((unknown.status, unknown.code()), (404, "unknown_tenant"));
    assert_eq!(rotator.read("acl-rotate/acme/admin").await.status, 403);
}

async fn create_alone_creates_once_and_changes_nothing() {
    let rig = Rig::shared("acl-create").await;
    let rules = [
        ("acl-create/+/admin", &["create"][..]),
        ("acl-create/+/config", &["create", "update"]),
    ];
    let creator = rig.api.with_policy("acl-create", &rules).await;
    let config = creator
        .write("acl-create/acme/config", rig.server_config())
        .await;
    config.no_content();

    let body = json!({"username": EMAIL});
    creator
        .write("acl-create/acme/admin", body.clone())
        .await
        .data();
    let again = creator.write("acl-create/acme/admin", body.clone()).await;
    assert_eq!(again.status, 403);
    assert_eq!(again.error(), "permission denied");
    let patched = creator.patch("acl-create/acme/admin", json!({})).await;
    assert_eq!(patched.status, 403);
    // A deleted credential is no existing one to the policy, and still not overwritten.
    rig.delete("acme/admin").await.no_content();
    let deleted = creator.write("acl-create/acme/admin", body).await;
    assert_eq!((deleted.status, deleted.code()), (409, "deleted"));
}

async fn a_tenant_sees_its_own_and_nothing_else() {
    let rig = Rig::shared("acl-tenant").await;
    rig.create("acme").await;
    let rules = [
        ("acl-tenant/acme/admin", &["read"][..]),
        ("acl-tenant/acme/status", &["read"]),
    ];
    let tenant = rig.api.with_policy("acl-tenant", &rules).await;

    let admin = tenant.read("acl-tenant/acme/admin").await;
    assert_eq!(admin.data()["username"], EMAIL);
    tenant.read("acl-tenant/acme/status").await.data();
    for path in [
        "acme/config",
        "acme/versions/1",
        "acme/events",
        "other/admin",
        "config",
    ] {
        let answer = tenant.read(&rig.path(path)).await;
        assert_eq!(answer.status, 403, "{path}");
    }
    assert_eq!(tenant.list("acl-tenant").await.status, 403);
    let rotated = tenant.write("acl-tenant/acme/rotate", json!({})).await;
    assert_eq!(rotated.status, 403);
    rig.assert_nothing_leaked();
}

async fn a_client_may_have_its_read_wrapped() {
    let rig = Rig::shared("wrapping").await;
    rig.create("acme").await;
    let password = rig.password("acme").await;
    let path = rig.path("acme/admin");
    let request = rig
        .api
        .request("GET", &path)
        .header("X-Vault-Wrap-TTL", "60");
    let wrapped = rig.api.send(request).await;
    assert_eq!(wrapped.status, 200);
    assert!(wrapped.body["data"].is_null());
    let wrap = &wrapped.body["wrap_info"];
    assert_eq!(
        (&wrap["ttl"], &wrap["creation_path"]),
        (&json!(60), &json!(path))
    );

    let unwrapper = rig.api.with_token(wrap["token"].as_str().unwrap());
    let unwrapped = unwrapper.write("sys/wrapping/unwrap", json!({})).await;
    assert_eq!(unwrapped.data()["password"], password);
    let again = unwrapper.write("sys/wrapping/unwrap", json!({})).await;
    assert_eq!(again.status, 400, "once");
    rig.assert_nothing_leaked();
}
