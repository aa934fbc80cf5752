//! `object_store`'s own integration suite, against the server that stands for GCS and Azure in the tests.
//!
//! It holds that server to what the suite's authors hold the real services to. `make test-cloud` runs it; the
//! addresses and the credentials are in the environment.

#![expect(
    clippy::expect_used,
    clippy::unwrap_used,
    reason = "a test that cannot begin has failed"
)]

use object_store::azure::{MicrosoftAzure, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorage, GoogleCloudStorageBuilder};
use object_store::integration::{
    copy_if_not_exists, copy_rename_nonexistent_object, get_nonexistent_object, get_opts,
    list_paginated, list_uses_directories_correctly, list_with_delimiter,
    list_with_offset_exclusivity, multipart, multipart_out_of_order,
    multipart_put_part_out_of_order, multipart_race_condition, multipart_with_opts,
    put_get_attributes, put_get_delete_list, put_opts, rename_and_copy, stream_get,
};
use object_store::list::PaginatedListStore;
use object_store::multipart::MultipartStore;
use object_store::{ClientOptions, Error, ObjectStore};

const BUCKET: &str = "suite";

fn told(name: &str) -> String {
    std::env::var(name).expect("`make test-cloud` sets it")
}

fn gcs(bucket: &str) -> GoogleCloudStorage {
    GoogleCloudStorageBuilder::new()
        .with_bucket_name(bucket)
        .with_base_url(&told("CLOUD_GCS_URL"))
        .with_service_account_key(told("CLOUD_GCS_SERVICE_ACCOUNT"))
        .with_client_options(ClientOptions::new().with_allow_http(true))
        .build()
        .unwrap()
}

fn azure(container: &str) -> MicrosoftAzure {
    MicrosoftAzureBuilder::new()
        .with_container_name(container)
        .with_endpoint(told("CLOUD_AZURE_URL"))
        .with_account(told("CLOUD_AZURE_ACCOUNT"))
        .with_access_key(told("CLOUD_AZURE_KEY"))
        .with_allow_http(true)
        .build()
        .unwrap()
}

/// All that the suite asks of both services.
async fn suite<S: ObjectStore + MultipartStore + PaginatedListStore>(
    store: &S,
    missing: &S,
    last_upload_wins: bool,
) {
    put_get_delete_list(store).await;
    list_with_offset_exclusivity(store).await;
    list_uses_directories_correctly(store).await;
    list_with_delimiter(store).await;
    rename_and_copy(store).await;
    copy_if_not_exists(store).await;
    copy_rename_nonexistent_object(store).await;
    stream_get(store).await;
    multipart(store, store).await;
    multipart_put_part_out_of_order(store, store).await;
    multipart_race_condition(store, last_upload_wins).await;
    multipart_out_of_order(store).await;
    list_paginated(store, store).await;
    get_opts(store).await;
    put_opts(store, true).await;
    put_get_attributes(store).await;
    for store in [store, missing] {
        let error = get_nonexistent_object(store, None).await.unwrap_err();
        assert!(matches!(error, Error::NotFound { .. }), "{error}");
    }
}

#[tokio::test]
#[ignore = "needs the server that `make test-cloud` starts"]
async fn gcs_passes_the_suite() {
    let store = gcs(BUCKET);
    suite(&store, &gcs("no-such-bucket"), true).await;
    multipart_with_opts(&store, &store).await;
}

#[tokio::test]
#[ignore = "needs the server that `make test-cloud` starts"]
async fn azure_passes_the_suite() {
    suite(&azure(BUCKET), &azure("no-such-bucket"), false).await;
}
